"""FaultyRunner: between the engine's thread and its model.

A step can be held before it is computed, paced, counted, never return, raise, or compute logits
that are NaN for chosen requests. All but `execute` is called by the control's threads.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from functools import wraps
from typing import TYPE_CHECKING, Any

from engine_service.core.outputs import ModelRunnerOutput, SchedulerOutput

if TYPE_CHECKING:
    from engine_service.core.outputs import ScheduledSequence
    from engine_service.core.request import Sequence
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
        self._hangs = self._hangs_with_lock = False
        self._raises: BaseException | None = None
        self._poisoned: frozenset[str] = frozenset()
        self._names: dict[int, str] = {}  # by seq_id, of the present step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        """See ModelRunner."""
        self._wait_allowed()
        if self._hangs:
            _hang(holds_lock=self._hangs_with_lock)
        if self._raises is not None:
            raise self._raises
        if self._poisoned:
            running = self._engine.scheduler._states.running
            self._names = {
                part.seq_id: self._name(running[part.seq_id]) for part in output.scheduled
            }
        result: ModelRunnerOutput = self._runner.execute(output)
        return result

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

    def hang(self, holds_lock: bool) -> None:
        """Lets the next step never return, perhaps with the interpreter's lock held."""
        self._hangs, self._hangs_with_lock = True, holds_lock

    def fail(self, panics: bool) -> None:
        """Lets the next step raise."""
        self._raises = InjectedPanic("injected") if panics else InjectedError("injected")

    def poison(self, names: Iterable[str]) -> None:
        """Makes the logits of these requests NaN, and no others' any more."""
        self._poisoned = frozenset(names)

    def poisoning(self, sample: Callable[..., Any]) -> Callable[..., Any]:
        """`sample` of runner.sampling.sampler, after the logits of the poisoned were made NaN."""

        @wraps(sample)
        def poisoned(
            logits: Any, sequences: "SequenceOf[ScheduledSequence]", *arguments: Any, **options: Any
        ) -> Any:
            rows = [
                row
                for row, sequence in enumerate(sequences)
                if self._poisoned and self._names[sequence.seq_id] in self._poisoned
            ]
            if rows:
                logits[rows] = float("nan")
            return sample(logits, sequences, *arguments, **options)

        return poisoned

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

    def _name(self, seq: "Sequence") -> str:
        return self._engine._parents.name_of(seq.request.request_id, seq.index)[0]


def _hang(holds_lock: bool) -> None:
    if holds_lock:
        ctypes.PyDLL(None).pause()  # until a signal, whose handler Python cannot run
    threading.Event().wait()
