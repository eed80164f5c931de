"""FaultyRunner: between the engine's thread and its model.

A step can be held before it is computed, paced, counted, never return, raise, or compute logits
that are NaN for chosen requests. All but `execute` is called by the control's threads.
"""

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from engine_service.core.outputs import ModelRunnerOutput, SchedulerOutput

if TYPE_CHECKING:
    from engine_service.engine.llm_engine import LLMEngine


class InjectedError(Exception):
    """What a step raises when it is told to fail."""


class InjectedPanic(BaseException):
    """The same, of the kind that a Rust panic is."""


class FaultyRunner:
    """A ModelRunner; `runner` computes."""

    def __init__(self, runner: Any, engine: "LLMEngine") -> None:
        self._runner = runner
        self._engine = engine
        self._changed = threading.Condition()
        self._num_allowed: int | None = None
        self._is_held = False
        self._num_steps = 0
        self._pace = 0.0
        self._next_step_at = 0.0
        self._hangs = False
        self._raises: BaseException | None = None
        self._poisoned: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        """See ModelRunner."""
        self._wait_allowed()
        if self._hangs:
            threading.Event().wait()
        if self._raises is not None:
            raise self._raises
        if not self._poisoned:
            result: ModelRunnerOutput = self._runner.execute(output)
            return result
        return self._execute_poisoned(output)

    def allow(self, num_steps: int | None) -> None:
        """Lets so many more steps run and holds the next one; None lets all run."""
        with self._changed:
            self._num_allowed = num_steps
            self._is_held &= num_steps == 0
            self._changed.notify_all()

    def wait_held(self, timeout: float) -> bool:
        """Waits until a step is held; False if none is by then."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_held, timeout)

    @property
    def num_steps(self) -> int:
        """Steps that were begun."""
        return self._num_steps

    def pace(self, seconds: float) -> None:
        """Begins steps at least so many seconds apart."""
        self._pace = seconds

    def hang(self) -> None:
        """Lets the next step never return."""
        self._hangs = True

    def fail(self, panics: bool) -> None:
        """Lets the next step raise."""
        self._raises = InjectedPanic("injected") if panics else InjectedError("injected")

    def poison(self, names: Iterable[str]) -> None:
        """Makes the logits of these requests NaN, and no others' any more."""
        self._poisoned = frozenset(names)

    def _wait_allowed(self) -> None:
        pause = self._next_step_at - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        self._next_step_at = time.monotonic() + self._pace
        with self._changed:
            while self._num_allowed == 0:
                self._is_held = True
                self._changed.notify_all()
                self._changed.wait()
            self._is_held = False
            if self._num_allowed is not None:
                self._num_allowed -= 1
            self._num_steps += 1

    def _execute_poisoned(self, output: SchedulerOutput) -> ModelRunnerOutput:
        """Computes with rows of NaN where a poisoned request draws."""
        names = {seq_id: self._name(seq_id) for seq_id in (s.seq_id for s in output.scheduled)}
        draws = [
            draw.seq_id for part in output.scheduled if part.sample_indexes for draw in part.draws()
        ]
        rows = [row for row, seq_id in enumerate(draws) if names[seq_id] in self._poisoned]
        model = self._runner.model
        compute = model.compute_logits

        def compute_logits(*arguments: Any, **options: Any) -> Any:
            logits = compute(*arguments, **options)
            if logits.shape[0] == len(draws):  # else those of prompts' log-probabilities
                logits[rows] = float("nan")
            return logits

        model.compute_logits = compute_logits
        try:
            result: ModelRunnerOutput = self._runner.execute(output)
            return result
        finally:
            del model.compute_logits

    def _name(self, seq_id: int) -> str:
        seq = self._engine.scheduler._states.running[seq_id]
        return self._engine._parents.name_of(seq.request.request_id, seq.index)[0]
