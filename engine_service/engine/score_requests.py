"""Score as requests to the scheduler: one for each continuation, all with the same prompt.

Such a request generates nothing. Its tokens are computed as a prompt is, and from the last token of
the common prompt on the log-probability of the next one is kept; everything before that may come
from the prefix cache.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from engine_service.core.request import Request
from engine_service.core.token_ids import SharedTokenIds, TokenIds, token_array
from engine_service.engine.admission import check_ids, check_kv_fits
from folovllm.errors import InvalidRequestError
from folovllm.model_info import ModelInfo
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.score import MAX_CONTINUATIONS, MAX_SCORED_TOKENS

_PARAMS = SamplingParams(temperature=0.0, prompt_logprobs=0)


@dataclass(frozen=True, slots=True, eq=False)
class ScoreRequest:
    """A prompt, of which there is one copy, and the continuations to score."""

    prompt_token_ids: Sequence[int]
    """Kept as an array, as is each continuation."""
    continuations: Sequence[Sequence[int]]
    priority: int = field(default=0, kw_only=True)
    cache_salt: str = field(default="", kw_only=True)
    arrival_time: float = field(default_factory=time.monotonic, kw_only=True)
    handicap: float = field(default=0.0, kw_only=True)
    """Request's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_token_ids", token_array(self.prompt_token_ids))
        continuations = tuple(map(token_array, self.continuations))
        object.__setattr__(self, "continuations", continuations)

    def requests(self) -> Iterator[Request]:
        """One for each continuation, in their order; only the scheduler sees their ids."""
        shared = SharedTokenIds(self.prompt_token_ids)
        for continuation in self.continuations:
            yield Request(
                new_request_id(),
                TokenIds(shared, continuation),
                _PARAMS,
                priority=self.priority,
                cache_salt=self.cache_salt,
                arrival_time=self.arrival_time,
                handicap=self.handicap,
                scored_from=len(self.prompt_token_ids),
            )


def score_request(
    prompt_token_ids: Sequence[int],
    continuations: Sequence[Sequence[int]],
    info: ModelInfo,
    *,
    priority: int = 0,
    cache_salt: str = "",
    arrival_time: float | None = None,
) -> ScoreRequest:
    """The request, which has come now unless `arrival_time` is given.

    Raises InvalidRequestError if the model can never serve it.
    """
    _check_size(prompt_token_ids, continuations)
    request = ScoreRequest(
        prompt_token_ids,
        continuations,
        priority=priority,
        cache_salt=cache_salt,
        arrival_time=time.monotonic() if arrival_time is None else arrival_time,
    )
    prompt = request.prompt_token_ids
    check_ids("prompt", prompt, info)
    for index, continuation in enumerate(request.continuations):
        _check_continuation(f"continuations[{index}]", prompt, continuation, info)
    return request


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
