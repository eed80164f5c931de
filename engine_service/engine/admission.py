"""What an engine admits: the checks of a request that need to know the model.

They cost next to nothing, run before any work, and name the field of the contract that is wrong.
"""

from collections.abc import Sequence

from folovllm.errors import InvalidRequestError
from folovllm.model_info import ModelInfo
from folovllm.sampling_params import SamplingParams

# Entries of prompt_logprobs that fit into one message, with the prompt's ids, at 15 to 19 bytes.
_MAX_PROMPT_LOGPROBS = 200_000


def check_request(prompt_token_ids: Sequence[int], params: SamplingParams, info: ModelInfo) -> None:
    """Raises InvalidRequestError if the model can never serve the request."""
    check_params(params, info)
    check_prompt(prompt_token_ids, info)
    check_lengths(len(prompt_token_ids), params, info)


def check_lengths(num_prompt_tokens: int, params: SamplingParams, info: ModelInfo) -> None:
    """Raises InvalidRequestError if prompt and output together do not fit."""
    _check_prompt_logprobs(num_prompt_tokens, params.prompt_logprobs)
    max_tokens = params.max_tokens or info.max_model_len - num_prompt_tokens
    if num_prompt_tokens + max_tokens > info.max_model_len:
        raise InvalidRequestError(
            "sampling_params.max_tokens",
            f"max_tokens ({max_tokens}) and the prompt ({num_prompt_tokens} tokens) together are "
            f"over the model's {info.max_model_len}; ask for at most "
            f"{info.max_model_len - num_prompt_tokens}",
        )
    check_kv_fits(
        num_prompt_tokens + max_tokens, info, "sampling_params.max_tokens", "prompt and max_tokens"
    )


def check_kv_fits(num_tokens: int, info: ModelInfo, field: str, what: str) -> None:
    """Raises InvalidRequestError for `field` if the cache cannot hold the KV of so many tokens.

    The last token is never fed back, so it needs no KV.
    """
    if num_tokens - 1 > info.num_kv_blocks * info.block_size:
        raise InvalidRequestError(
            field,
            f"{what} need the KV of {num_tokens - 1} tokens; the whole cache holds "
            f"{info.num_kv_blocks * info.block_size}",
        )


def check_params(params: SamplingParams, info: ModelInfo) -> None:
    """Raises InvalidRequestError if a parameter by itself cannot be served.

    Every token id that it names must be the model's.
    """
    check_ids("sampling_params.stop_token_ids", params.stop_token_ids, info)
    check_ids("sampling_params.allowed_token_ids", params.allowed_token_ids, info)
    check_ids("sampling_params.logit_bias", [i for i, _ in params.logit_bias], info)
    for ids in params.bad_words_token_ids:
        check_ids("sampling_params.bad_words_token_ids", ids, info)
    if params.reasoning is not None:
        _check_delimiter("start_token_id", params.reasoning.start_token_id, info)
        _check_delimiter("end_token_id", params.reasoning.end_token_id, info)


def _check_delimiter(name: str, token_id: int | None, info: ModelInfo) -> None:
    if token_id is None:
        return
    field = f"sampling_params.reasoning.{name}"
    check_ids(field, [token_id], info)
    if token_id in info.eos_token_ids:
        raise InvalidRequestError(field, f"token id {token_id} is an EOS id, which ends all output")


def _check_prompt_logprobs(num_prompt_tokens: int, num_tops: int | None) -> None:
    if num_tops is None:
        return
    num_entries = num_prompt_tokens * (num_tops + 1)
    if num_entries > _MAX_PROMPT_LOGPROBS:
        raise InvalidRequestError(
            "sampling_params.prompt_logprobs",
            f"prompt_logprobs {num_tops} for {num_prompt_tokens} tokens makes {num_entries} "
            f"log-probabilities; one request may ask for {_MAX_PROMPT_LOGPROBS}",
        )


def check_branch(params: SamplingParams, info: ModelInfo) -> None:
    """Raises InvalidRequestError if a branch cannot have these parameters."""
    if params.n != 1:
        raise InvalidRequestError("sampling_params.n", "a branch is one continuation: n must be 1")
    if params.prompt_logprobs is not None:
        raise InvalidRequestError(
            "sampling_params.prompt_logprobs", "a branch does not compute its prompt again"
        )
    if params.truncate_prompt_tokens is not None:
        raise InvalidRequestError(
            "sampling_params.truncate_prompt_tokens", "a branch goes on with its whole prompt"
        )
    check_params(params, info)


def check_prompt(prompt_token_ids: Sequence[int], info: ModelInfo) -> None:
    """Raises InvalidRequestError if a prompt is empty, too long or has unknown ids."""
    check_prompt_length(len(prompt_token_ids), info)
    check_ids("prompt_token_ids", prompt_token_ids, info)


def check_prompt_length(num_tokens: int, info: ModelInfo) -> None:
    """Raises InvalidRequestError if a prompt of so many tokens is empty or too long."""
    if num_tokens == 0:
        raise InvalidRequestError("prompt_token_ids", "the prompt is empty")
    if num_tokens >= info.max_model_len:
        raise InvalidRequestError(
            "prompt_token_ids",
            f"the prompt has {num_tokens} tokens; the model takes at most "
            f"{info.max_model_len} with the answer",
        )


def check_ids(field: str, token_ids: Sequence[int], info: ModelInfo) -> None:
    """Raises InvalidRequestError for `field` if an id is not the model's."""
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < info.vocab_size:
        unknown = next(i for i in token_ids if not 0 <= i < info.vocab_size)
        raise InvalidRequestError(
            field, f"token id {unknown} is unknown; the vocabulary has {info.vocab_size} entries"
        )
