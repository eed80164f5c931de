"""Score as requests to the scheduler: one for each continuation, all with the same prompt.

Such a request generates nothing. Its tokens are computed as a prompt is, and from the last token of
the common prompt on the log-probability of the next one is kept; everything before that may come
from the prefix cache.
"""

from collections.abc import Sequence

from engine_service.core.request import Request
from engine_service.engine.admission import check_ids, check_kv_fits
from folovllm.errors import InvalidRequestError
from folovllm.model_info import ModelInfo
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.score import MAX_CONTINUATIONS, MAX_SCORED_TOKENS

_PARAMS = SamplingParams(temperature=0.0, prompt_logprobs=0)


def score_requests(
    prompt_token_ids: Sequence[int],
    continuations: Sequence[Sequence[int]],
    info: ModelInfo,
    *,
    priority: int = 0,
    cache_salt: str = "",
) -> list[Request]:
    """The requests, in the continuations' order; only the scheduler sees their ids.

    Raises InvalidRequestError if the model can never serve them.
    """
    _check_size(prompt_token_ids, continuations)
    check_ids("prompt", prompt_token_ids, info)
    for index, continuation in enumerate(continuations):
        _check_continuation(f"continuations[{index}]", prompt_token_ids, continuation, info)
    return [
        Request(
            new_request_id(),
            (*prompt_token_ids, *continuation),
            _PARAMS,
            priority=priority,
            cache_salt=cache_salt,
            scored_from=len(prompt_token_ids),
        )
        for continuation in continuations
    ]


def _check_size(prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> None:
    if not prompt:
        raise InvalidRequestError("prompt", "the prompt is empty")
    if not 1 <= len(continuations) <= MAX_CONTINUATIONS:
        raise InvalidRequestError(
            "continuations",
            f"give 1 to {MAX_CONTINUATIONS} continuations, got {len(continuations)}",
        )
    num_tokens = len(prompt) + sum(map(len, continuations))
    if num_tokens > MAX_SCORED_TOKENS:
        raise InvalidRequestError(
            "continuations",
            f"prompt and continuations have {num_tokens} tokens; one call may have "
            f"{MAX_SCORED_TOKENS}",
        )


def _check_continuation(
    field: str, prompt: Sequence[int], continuation: Sequence[int], info: ModelInfo
) -> None:
    if not continuation:
        raise InvalidRequestError(field, "the continuation is empty")
    check_ids(field, continuation, info)
    num_tokens = len(prompt) + len(continuation)
    if num_tokens > info.max_model_len:
        raise InvalidRequestError(
            field,
            f"prompt and continuation have {num_tokens} tokens; the model takes at most "
            f"{info.max_model_len}",
        )
    check_kv_fits(num_tokens, info, field, "prompt and continuation")
