"""OverlappingFakeModelRunner: the fake model on a device that lags behind the host.

A launched step is computed only when its result is asked for, from what it was launched with. So a
plan that leaned on something the host learns, frees or changes later shows in the tokens.
"""

from collections import deque
from dataclasses import replace

from engine_service.core.outputs import (
    PENDING_TOKEN,
    ModelRunnerOutput,
    ScheduledSequence,
    SchedulerOutput,
)
from support.fakes.matcher import FakeMatcher
from support.fakes.model_runner import FakeModelRunner

MAX_IN_FLIGHT = 2


class OverlappingFakeModelRunner(FakeModelRunner):
    """Asserts that steps are read in order and that a pending token is what the last one draws."""

    def __init__(self, block_size: int, vocab_size: int) -> None:
        super().__init__(block_size, vocab_size)
        self.launched: list[SchedulerOutput] = []
        """Every step, as it was launched."""
        self.events: list[tuple[str, int]] = []
        """("launch", number) and ("result", number), as they came."""
        self.launch_failure: Exception | None = None
        """Raised by the next launch."""
        self._unread: deque[FakeLaunchedStep] = deque()
        self._drawn: dict[int, int] = {}
        """On the device: the last token drawn for each sequence that draws alone."""

    def launch(self, output: SchedulerOutput) -> "FakeLaunchedStep":
        if self.launch_failure is not None:
            raise self.launch_failure
        assert len(self._unread) < MAX_IN_FLIGHT, "too many steps are in flight"
        before = {part.seq_id: part for step in self._unread for part in step.output.scheduled}
        for part in output.scheduled:
            _check(part, before.get(part.seq_id))
        step = FakeLaunchedStep(
            self,
            len(self.launched),
            SchedulerOutput(tuple(map(_snapshot, output.scheduled)), output.block_copies),
        )
        self.events.append(("launch", step.number))
        self.launched.append(step.output)
        self._unread.append(step)
        return step

    def read(self, step: "FakeLaunchedStep") -> ModelRunnerOutput:
        assert self._unread and self._unread[0] is step, "a result is read twice or out of order"
        self.events.append(("result", step.number))
        parts = tuple(map(self._resolve, step.output.scheduled))
        computed = self.execute(SchedulerOutput(parts, step.output.block_copies))
        for part, token_ids in zip(parts, computed.sampled_token_ids, strict=True):
            if part.sample_indexes:
                # A sequence that fails may be computed once more.
                self._drawn[part.seq_id] = token_ids[0] if token_ids else 0
        self._unread.popleft()
        return computed

    def _resolve(self, part: ScheduledSequence) -> ScheduledSequence:
        if PENDING_TOKEN not in part.token_ids:
            return part
        return replace(part, token_ids=(self._drawn[part.seq_id],))


class FakeLaunchedStep:
    """A step that is not computed yet."""

    def __init__(
        self, runner: OverlappingFakeModelRunner, number: int, output: SchedulerOutput
    ) -> None:
        self.number = number
        self.output = output
        self._runner = runner

    def result(self) -> ModelRunnerOutput:
        return self._runner.read(self)


def _check(part: ScheduledSequence, before: ScheduledSequence | None) -> None:
    """Asserts that a part follows what an unread step computes of its sequence, if one does."""
    pending = PENDING_TOKEN in part.token_ids
    assert pending == (before is not None and len(before.sample_indexes) > 0)
    if before is not None:
        assert part.num_computed_tokens == before.num_tokens
    if pending:
        assert tuple(part.token_ids) == (PENDING_TOKEN,)
        assert before is not None and len(before.sample_indexes) == 1
        assert part.matcher is None and not part.draft_token_ids
    else:
        certain = len(part.token_ids) - len(part.draft_token_ids)
        start = part.num_computed_tokens
        known = part.token_history[start : start + certain]
        assert list(part.token_ids[:certain]) == list(known)


def _snapshot(part: ScheduledSequence) -> ScheduledSequence:
    """What a launch reads: later the scheduler changes what it refers to."""
    matcher = part.matcher.copy() if isinstance(part.matcher, FakeMatcher) else part.matcher
    return replace(
        part,
        token_ids=tuple(part.token_ids),
        block_table=tuple(part.block_table),
        token_history=tuple(part.token_history),
        matcher=matcher,
    )
