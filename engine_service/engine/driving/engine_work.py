"""EngineWork: everything that is done with an engine, except waiting for something to do.

Plain calls, one after the other. Whoever makes them, an EngineDriver, decides on which thread, and
how much time passes between them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from engine_service.engine.commands import Abort, Command, Matchers
from engine_service.engine.delivery.step_outputs import StepOutputs
from engine_service.engine.failures import RequestFailure, request_failure
from engine_service.engine.llm_engine import EngineLoad, LLMEngine
from engine_service.engine.step_clock import StepClock
from folovllm.errors import ServerError

log: structlog.stdlib.BoundLogger = structlog.get_logger("engine")

Step = Callable[[LLMEngine, Sequence[Command]], StepOutputs]
"""Steps an engine, which has applied these commands since its last step."""
Tell = Callable[..., None]
"""Has a function called with arguments on the event loop, after those that it was given before."""


def step_alone(engine: LLMEngine, commands: Sequence[Command]) -> StepOutputs:
    """The Step of an engine that has one rank."""
    return engine.step_in_columns()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step or a command has led to, and how busy the engine is after it."""

    outputs: StepOutputs
    failures: Sequence[RequestFailure]
    load: EngineLoad


@dataclass(frozen=True, slots=True)
class EngineListener:
    """Is told, on the event loop, what becomes of an engine."""

    started: Callable[[LLMEngine, EngineLoad], None]
    """The model is loaded and warmed up."""
    start_failed: Callable[[Exception], None]
    scheduled: Callable[[list[str]], None]
    """A step begins that computes these for the first time."""
    delivered: Callable[[Outcome], None]
    died: Callable[[str], None]
    """It has failed or was stopped, for this reason."""


class EngineWork:
    """Belongs to one driver, which makes all calls."""

    def __init__(
        self,
        build: Callable[[], LLMEngine],
        step: Step,
        listener: EngineListener,
        tell: Tell,
        *,
        clock: Callable[[], float],
        step_clock: StepClock,
        max_queue_seconds: float | None,
    ) -> None:
        """What waits for over `max_queue_seconds` by `clock` is ended; None is without limit."""
        self._build = build
        self._step = step
        self._listener = listener
        self._tell = tell
        self._clock = clock
        self._step_clock = step_clock
        self._max_queue_seconds = max_queue_seconds
        self._applied: list[Command] = []  # since the last step

    def start(self) -> bool:
        """Loads the model and warms up, before all else; False if that has failed."""
        try:
            engine = self._build()
            engine.warm_up()
        except Exception as error:
            self._tell(self._listener.start_failed, error)
            return False
        except BaseException as error:
            failed = ServerError(f"the engine does not start: {error!r}")
            self._tell(self._listener.start_failed, failed)
            return False
        self._engine = engine
        engine.on_scheduled = partial(self._tell, self._listener.scheduled)
        self._tell(self._listener.started, engine, engine.load())
        return True

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around all that follows: tells how the engine ends, and raises nothing."""
        try:
            yield
            self._tell(self._listener.died, "the engine was stopped")
        except BaseException:  # a panic of a library is no Exception
            # First, since logging may block or fail.
            self._tell(self._listener.died, "the engine has failed")
            log.exception("the engine failed")
        finally:
            self._step_clock.rest()

    def rests(self) -> bool:
        """Whether there is nothing to do until a command comes."""
        idle = not self._engine.has_unfinished_requests()
        if idle:
            self._step_clock.rest()
        return idle

    def apply(self, command: Command, matchers: Matchers) -> None:
        """Tells the engine; delivers what this ends at once."""
        try:
            outputs = command.apply(self._engine, matchers)
        except Exception as error:
            self._deliver(StepOutputs(), [request_failure(command.name, error)])
            return
        self._applied.append(command)
        if outputs:
            self._deliver(StepOutputs(outputs), [])

    def end_overdue(self) -> None:
        """Ends what has waited for too long; once before each step."""
        if self._max_queue_seconds is None:
            return
        overdue = self._engine.end_overdue(self._max_queue_seconds, self._clock())
        if overdue:
            self._deliver(StepOutputs(), overdue)
            # Other ranks have to do the same.
            self._applied += [Abort(failure.name) for failure in overdue]

    def step(self) -> Outcome:
        """Takes a step, which there is something to do for; to be delivered."""
        applied, self._applied = self._applied, []
        self._step_clock.begin()
        outputs = self._step(self._engine, applied)
        self._step_clock.end(self._engine.num_step_tokens)
        return Outcome(outputs, self._engine.drain_failures(), self._engine.load())

    def deliver(self, outcome: Outcome) -> None:
        """Tells what a step has led to."""
        self._tell(self._listener.delivered, outcome)

    def _deliver(self, outputs: StepOutputs, failures: Sequence[RequestFailure]) -> None:
        self.deliver(Outcome(outputs, failures, self._engine.load()))
