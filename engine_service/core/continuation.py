"""Continuation: what one step adds to one sequence."""

from typing import TYPE_CHECKING

from engine_service.core.outputs import SequenceOutput
from engine_service.core.request import RequestStatus, Sequence
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.token_rules import check_stop

if TYPE_CHECKING:
    from folovllm.outputs import PositionLogprobs


class Continuation:
    """Appends drawn tokens to a sequence, and notices where it ends."""

    def __init__(self, seq: Sequence, limits: SchedulerLimits) -> None:
        self._seq = seq
        self._limits = limits
        self._token_ids: list[int] = []
        self._logprobs: list[PositionLogprobs] = []
        self.status: RequestStatus | None = None
        """How the sequence ends with the last token added; None where it goes on."""
        self._stop_token_id: int | None = None
        self._output_complete = False

    def add(self, token_id: int, logprobs: "PositionLogprobs | None") -> None:
        """Appends a token to a sequence that goes on."""
        seq = self._seq
        seq.token_ids.append(token_id)
        self._token_ids.append(token_id)
        if logprobs is not None:
            assert logprobs.token.logprob is not None
            seq.cumulative_logprob += logprobs.token.logprob
            self._logprobs.append(logprobs)
        self.status, self._stop_token_id = check_stop(
            seq, self._limits.eos_token_ids, self._limits.max_model_len
        )
        if self.status is not RequestStatus.FINISHED_STOPPED and seq.matcher is not None:
            self._follow_grammar(token_id)

    def output(self) -> SequenceOutput:
        """All that was added."""
        return SequenceOutput(
            self._seq,
            tuple(self._token_ids),
            self.status is not None,
            self._stop_token_id,
            self._output_complete,
            tuple(self._logprobs),
        )

    def _follow_grammar(self, token_id: int) -> None:
        matcher = self._seq.matcher
        assert matcher is not None
        if not matcher.advance(token_id):
            self.status = RequestStatus.FINISHED_ABORTED
        elif matcher.must_stop:
            self.status = RequestStatus.FINISHED_STOPPED
            self._output_complete = token_id not in self._limits.eos_token_ids
        elif matcher.is_spent:
            self._seq.matcher = None
