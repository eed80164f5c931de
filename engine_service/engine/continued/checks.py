"""What an engine admits of a request that goes on with output from elsewhere.

What no engine could have generated, or would have gone on from, is refused before any work; only
what a grammar does not accept is found where its state is computed, see `matchers`.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Protocol

from engine_service.core.continued import Continued
from engine_service.core.request import Request
from engine_service.engine.admission import check_branch, check_ids
from folovllm.errors import InvalidRequestError, errors_within
from folovllm.model_info import ModelInfo
from folovllm.parameters.stop_tokens import stop_kind
from folovllm.sampling_params import SamplingParams


class GivenOutput(Protocol):
    """A ContinuedOutput, or the message of one."""

    @property
    def index(self) -> int:
        """Which of the n continuations."""
        ...

    @property
    def token_ids(self) -> Sequence[int]:
        """Its output so far."""
        ...

    @property
    def logprobs(self) -> Sequence[float]:
        """Of each of them, if they are asked for."""
        ...


def check_continued(request: Request, info: ModelInfo) -> None:
    """Raises InvalidRequestError if a continued request, otherwise admitted, cannot go on."""
    continued, params = request.continued, request.sampling_params
    assert continued is not None
    if params.seed is None:
        raise InvalidRequestError(
            "sampling_params.seed", "a continued request needs the seed that it has drawn with"
        )
    _check_branch(request, continued, info)
    check_counts(continued.outputs, len(request.prompt_token_ids), params, info)
    for number, output in enumerate(continued.outputs):
        with errors_within(f"continued.outputs[{number}]"):
            _check_token_ids(output.token_ids, params, info)
            if not all(map(isfinite, output.logprobs)):
                raise InvalidRequestError("logprobs", "must be finite numbers")


def check_counts(
    outputs: Sequence[GivenOutput], num_prompt_tokens: int, params: SamplingParams, info: ModelInfo
) -> None:
    """Raises InvalidRequestError if outputs are too many or too long, whatever their ids are.

    Takes no longer for a long one, so it comes before they are copied.
    """
    _check_indexes(outputs, params.n)
    for number, output in enumerate(outputs):
        with errors_within(f"continued.outputs[{number}]"):
            _check_length(len(output.token_ids), num_prompt_tokens, params, info)
            _check_num_logprobs(output, params)


def _check_branch(request: Request, continued: Continued, info: ModelInfo) -> None:
    num_parent_tokens = request.num_parent_output_tokens
    if not num_parent_tokens and not continued.branch_index:
        return
    check_branch(request.sampling_params, info)
    if num_parent_tokens >= len(request.prompt_token_ids):
        raise InvalidRequestError(
            "continued.num_parent_output_tokens",
            f"({num_parent_tokens}) leaves nothing of the {len(request.prompt_token_ids)} ids of "
            "prompt_token_ids to be the parent's prompt",
        )


def _check_indexes(outputs: Sequence[GivenOutput], n: int) -> None:
    if not outputs:
        raise InvalidRequestError("continued.outputs", "list the continuations that have not ended")
    seen: set[int] = set()
    for number, output in enumerate(outputs):
        field = f"continued.outputs[{number}].index"
        if not 0 <= output.index < n:
            raise InvalidRequestError(field, f"must be below n ({n}), got {output.index}")
        if output.index in seen:
            raise InvalidRequestError(field, f"{output.index} is listed twice")
        seen.add(output.index)


def _check_length(
    num_tokens: int, num_prompt_tokens: int, params: SamplingParams, info: ModelInfo
) -> None:
    if params.max_tokens is not None and num_tokens >= params.max_tokens:
        raise InvalidRequestError(
            "token_ids", f"{num_tokens} ids end the output: max_tokens is {params.max_tokens}"
        )
    if num_prompt_tokens + num_tokens >= info.max_model_len:
        raise InvalidRequestError(
            "token_ids",
            f"prompt and output have {num_prompt_tokens + num_tokens} tokens; the model takes at "
            f"most {info.max_model_len}",
        )


def _check_token_ids(token_ids: Sequence[int], params: SamplingParams, info: ModelInfo) -> None:
    """That they are the model's, and that the output would not have ended with any of them."""
    field = "token_ids"
    check_ids(field, token_ids, info)
    # A set, so that a long output takes little time.
    eos_token_ids = info.eos_token_ids
    suspects = {*params.stop_token_ids, *eos_token_ids}
    if suspects.isdisjoint(token_ids):
        return
    for count, token_id in enumerate(token_ids, 1):
        if token_id in suspects and stop_kind(token_id, count, params, eos_token_ids):
            raise InvalidRequestError(
                f"{field}[{count - 1}]", f"id {token_id} ends the output, so nothing follows it"
            )


def _check_num_logprobs(output: GivenOutput, params: SamplingParams) -> None:
    num_wanted = 0 if params.logprobs is None else len(output.token_ids)
    if len(output.logprobs) != num_wanted:
        reason = "logprobs are not asked for" if params.logprobs is None else "one for each id"
        raise InvalidRequestError(
            "logprobs", f"must have {num_wanted} entries ({reason}), got {len(output.logprobs)}"
        )
