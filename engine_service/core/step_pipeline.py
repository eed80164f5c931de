"""StepPipeline: plans steps, has them computed, and reads them, one step ahead where it can be.

    launch n+1 ─▶ read n ─▶ update ─▶ launch n+2 ─▶ read n+1 ─▶ …

So the device always has the next step when it ends one, and the host's work takes no time of its
own. With a runner that does not overlap, each step is read before the next is planned.
"""

from dataclasses import dataclass

from engine_service.core.outputs import (
    LaunchedStep,
    ModelRunner,
    OverlappingRunner,
    SchedulerOutput,
    SequenceOutput,
)
from engine_service.core.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class _StepInFlight:
    planned: SchedulerOutput
    launched: LaunchedStep


class StepPipeline:
    """Joins a scheduler and a runner. Between two calls of `step` at most one step is in flight."""

    def __init__(self, scheduler: Scheduler, runner: ModelRunner) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._overlapping = runner if isinstance(runner, OverlappingRunner) else None
        self._in_flight: _StepInFlight | None = None

    @property
    def has_step_in_flight(self) -> bool:
        """Whether a step is launched that is not read."""
        return self._in_flight is not None

    def step(self) -> list[SequenceOutput]:
        """Reads one step, once the next is launched where it can be; returns what changed."""
        if self._overlapping is None:
            planned = self._scheduler.schedule()
            return self._scheduler.update_from_output(planned, self._runner.execute(planned))
        step = self._in_flight or self._launch(self._overlapping, self._scheduler.schedule())
        ahead = self._scheduler.schedule_ahead(step.planned)
        self._in_flight = None if ahead is None else self._launch(self._overlapping, ahead)
        return self._scheduler.update_from_output(step.planned, step.launched.result())

    def _launch(self, runner: OverlappingRunner, planned: SchedulerOutput) -> _StepInFlight:
        return _StepInFlight(planned, runner.launch(planned))
