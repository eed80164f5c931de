"""What a step changed, as the outputs that callers get."""

from engine_service.core.outputs import SequenceOutput
from engine_service.core.request import RequestStatus, Sequence, SequenceGroup
from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput, FinishReason, RequestInfo, RequestMetrics, Usage

_FINISH_REASONS = {
    RequestStatus.FINISHED_STOPPED: FinishReason.STOP,
    RequestStatus.FINISHED_LENGTH: FinishReason.LENGTH,
    RequestStatus.FINISHED_ABORTED: FinishReason.ABORT,
}


def completion_output(change: SequenceOutput, name: str, index: int) -> CompletionOutput:
    """What changed for a sequence, which callers know by this name and index."""
    seq = change.seq
    output = CompletionOutput(
        name, index, token_ids=list(change.token_ids), logprobs=list(change.logprobs)
    )
    if seq.request.sampling_params.logprobs is not None:
        output.cumulative_logprob = seq.cumulative_logprob
    if change.finished:
        output.finish_reason = _FINISH_REASONS[seq.status]
        output.stop_reason = change.stop_token_id
        output.output_complete = change.output_complete
        output.usage = Usage(
            prompt_tokens=seq.num_prompt_tokens,
            completion_tokens=seq.num_output_tokens,
            cached_tokens=seq.group.num_cached_tokens,
        )
        output.metrics = _metrics(seq)
    return output


def request_info(group: SequenceGroup, info: ModelInfo) -> RequestInfo:
    """What was resolved about a request, which the model of `info` computes."""
    request = group.request
    num_tokens = len(request.prompt_token_ids)
    own_tokens = num_tokens - request.num_parent_output_tokens
    return RequestInfo(
        sampling_params=request.sampling_params.with_seed(request.seed),
        model_fingerprint=info.model_fingerprint,
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        prompt_tokens=num_tokens,
        cached_tokens=group.num_cached_tokens,
        prompt_logprobs=_prompt_logprobs(group),
        parent_output_token_ids=tuple(request.token_ids.part(own_tokens, num_tokens)),
    )


def _prompt_logprobs(group: SequenceGroup) -> tuple[PositionLogprobs, ...]:
    """One for each token of the prompt; none if not computed or aborted before all were known.

    Nothing precedes the first token, so it has no log-probability.
    """
    request = group.request
    if not group.wants_prompt_logprobs or group.lacks_prompt_logprobs:
        return ()
    first = Logprob(request.prompt_token_ids[0], None, None)
    return PositionLogprobs(first), *group.prompt_logprobs


def _metrics(seq: Sequence) -> RequestMetrics:
    return RequestMetrics.from_times(
        arrival=seq.request.arrival_time,
        first_scheduled=seq.group.first_scheduled_time,
        first_token=seq.first_token_time,
        finish=seq.finish_time,
        preemptions=seq.num_preemptions,
    )
