"""What a request takes up from its admission until its last sequence has ended.

Every figure is an upper bound that follows from counts alone: no token is looked at. When the last
sequence has ended, however it has, the engine refers to nothing of the request any more.
"""

from collections.abc import Sequence
from typing import NamedTuple

from engine_service.core.request import Branch, Request
from engine_service.engine.score_requests import ScoreRequest
from folovllm.sampling_params import SamplingParams

BYTES_PER_TOKEN = 8
"""On the host, for a token of a prompt or an output: its id takes four, the hashes of the KV blocks
less than four, with blocks of 16 tokens and more."""
# Of the output that a request comes with: its id and its log-probability.
_BYTES_PER_GIVEN_TOKEN = 12
_BYTES_PER_REQUEST = 4096
_BYTES_PER_SEQUENCE = 1536
# Of numbers and texts among the sampling parameters, at most so much for each.
_BYTES_PER_NUMBER = 48
_BYTES_PER_ENTRY = 160
_BYTES_PER_CHARACTER = 4
# Of the prompt, kept until the first token is drawn: those of a prompt's token, and of a candidate.
_BYTES_PER_POSITION = 256
_BYTES_PER_LOGPROB = 160


class RequestCost(NamedTuple):
    """What one call takes up, at most."""

    num_bytes: int
    """On the host, as soon as it is admitted. What it generates adds BYTES_PER_TOKEN each, while it
    runs or is preempted."""
    num_tokens: int
    """Tokens × sequences: those of all its sequences in the end, each with its prompt."""
    num_kv_tokens: int
    """Those whose KV it may need, where the sequences share that of the prompt."""


def request_cost(request: Request, max_model_len: int) -> RequestCost:
    """That of a request that `admission.check_request` admits."""
    params = request.sampling_params
    num_prompt_tokens = len(request.prompt_token_ids)
    num_new_tokens = _max_new_tokens(params, num_prompt_tokens, max_model_len)
    num_given_tokens = 0 if request.continued is None else request.continued.num_tokens
    return RequestCost(
        _BYTES_PER_REQUEST
        + num_prompt_tokens * BYTES_PER_TOKEN
        + num_given_tokens * _BYTES_PER_GIVEN_TOKEN
        + request.num_outputs * _BYTES_PER_SEQUENCE
        + _params_bytes(params)
        + num_prompt_tokens * _bytes_per_position(params.prompt_logprobs),
        request.num_outputs * (num_prompt_tokens + num_new_tokens),
        num_prompt_tokens + request.num_outputs * num_new_tokens,
    )


def fork_cost(
    num_parent_tokens: int, branches: Sequence[Branch], max_model_len: int
) -> RequestCost:
    """That of branches of a sequence that has at most so many tokens."""
    new_tokens = [
        _max_new_tokens(branch.sampling_params, num_parent_tokens, max_model_len)
        for branch in branches
    ]
    return RequestCost(
        num_parent_tokens * BYTES_PER_TOKEN
        + len(branches) * (_BYTES_PER_REQUEST + _BYTES_PER_SEQUENCE)
        + sum(_params_bytes(branch.sampling_params) for branch in branches),
        len(branches) * num_parent_tokens + sum(new_tokens),
        num_parent_tokens + sum(new_tokens),
    )


def score_cost(request: ScoreRequest) -> RequestCost:
    """That of a request that `score_requests.score_request` has made."""
    num_prompt_tokens, count = len(request.prompt_token_ids), len(request.continuations)
    num_scored_tokens = sum(map(len, request.continuations))
    num_kv_tokens = num_prompt_tokens + num_scored_tokens
    return RequestCost(
        num_kv_tokens * BYTES_PER_TOKEN
        + count * (_BYTES_PER_REQUEST + _BYTES_PER_SEQUENCE)
        + num_scored_tokens * _bytes_per_position(0),
        count * num_prompt_tokens + num_scored_tokens,
        num_kv_tokens,
    )


def _max_new_tokens(params: SamplingParams, num_before: int, max_model_len: int) -> int:
    left = max(max_model_len - num_before, 0)
    return left if params.max_tokens is None else min(params.max_tokens, left)


def _bytes_per_position(num_tops: int | None) -> int:
    return 0 if num_tops is None else _BYTES_PER_POSITION + num_tops * _BYTES_PER_LOGPROB


def _params_bytes(params: SamplingParams) -> int:
    """Of the parameters that may be long, and of the text of a grammar; not of it compiled."""
    entries = (*params.bad_words_token_ids, *params.bad_words, *params.stop)
    output = params.structured_output
    if not (entries or params.stop_token_ids or params.allowed_token_ids) and output is None:
        return _BYTES_PER_ENTRY * len(params.logit_bias)  # as for most
    if output is not None and not isinstance(output.value, bool):
        entries += (output.value,) if isinstance(output.value, str) else output.value
    num_characters = sum(len(each) for each in entries if isinstance(each, str))
    num_numbers = sum(len(each) for each in entries if not isinstance(each, str))
    num_numbers += len(params.stop_token_ids) + len(params.allowed_token_ids)
    return (
        _BYTES_PER_ENTRY * (len(entries) + len(params.logit_bias))
        + _BYTES_PER_NUMBER * num_numbers
        + _BYTES_PER_CHARACTER * num_characters
    )
