"""CommandedEngine: an engine that is driven as AsyncEngine drives it, without a thread."""

from engine_service.engine.commands import Command, Matchers
from engine_service.engine.driving.engine_work import Step, step_alone
from engine_service.engine.llm_engine import LLMEngine
from folovllm.outputs import CompletionOutput


class CommandedEngine:
    """Applies commands at once, and hands those it did not refuse to the next step."""

    def __init__(self, engine: LLMEngine, step: Step = step_alone) -> None:
        self.engine = engine
        self._step = step
        self._commands: list[Command] = []

    def apply(self, command: Command, matchers: Matchers = ()) -> list[CompletionOutput]:
        outputs = command.apply(self.engine, matchers)
        self._commands.append(command)
        return outputs

    def step(self) -> list[CompletionOutput]:
        commands, self._commands = self._commands, []
        return [*self._step(self.engine, commands)]
