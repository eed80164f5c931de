"""What one drawn token adds to a sequence, and whether the sequence ends with it."""

from typing import TYPE_CHECKING, NamedTuple

from engine_service.core.request import RequestStatus, Sequence
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.token_rules import check_stop

if TYPE_CHECKING:
    from folovllm.outputs import PositionLogprobs


class Ending(NamedTuple):
    """How a sequence ends."""

    status: RequestStatus
    stop_token_id: int | None = None
    """The stop token that ended it; None after the end-of-sequence token."""
    output_complete: bool = False
    """Whether it ended because its grammar was complete."""


def append_token(
    seq: Sequence, token_id: int, logprobs: "PositionLogprobs | None", limits: SchedulerLimits
) -> Ending | None:
    """Appends a token to a sequence that goes on; gives its end where it does so no longer."""
    seq.token_ids.append(token_id)
    if logprobs is not None:
        assert logprobs.token.logprob is not None
        seq.cumulative_logprob += logprobs.token.logprob
    status, stop_token_id = check_stop(seq, limits.eos_token_ids, limits.max_model_len)
    if seq.matcher is not None and status is not RequestStatus.FINISHED_STOPPED:
        ending = _follow_grammar(seq, token_id, limits)
        if ending is not None:
            return ending
    return None if status is None else Ending(status, stop_token_id)


def _follow_grammar(seq: Sequence, token_id: int, limits: SchedulerLimits) -> Ending | None:
    matcher = seq.matcher
    assert matcher is not None
    if not matcher.advance(token_id):
        return Ending(RequestStatus.FINISHED_ABORTED)
    if matcher.must_stop:
        complete = token_id not in limits.eos_token_ids
        return Ending(RequestStatus.FINISHED_STOPPED, output_complete=complete)
    if matcher.is_spent:
        seq.matcher = None
    return None
