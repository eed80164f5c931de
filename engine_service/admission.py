"""What a request must be to be taken: the checks that need to know the model.

They cost next to nothing, run before any work, and name the field of the contract that is wrong.
"""

from collections.abc import Sequence

from folovllm.errors import InvalidRequestError
from folovllm.model_info import ModelInfo
from folovllm.sampling_params import SamplingParams

# Entries of prompt_logprobs that fit into one message, with the prompt's ids, at 15 to 19 bytes.
_MAX_PROMPT_LOGPROBS = 200_000


def check_request(prompt_token_ids: Sequence[int], params: SamplingParams, info: ModelInfo) -> None:
    """Raises InvalidRequestError where the model can never serve the request."""
    _check_prompt(prompt_token_ids, info)
    _check_params(params, info)
    num_prompt_tokens = len(prompt_token_ids)
    _check_prompt_logprobs(num_prompt_tokens, params.prompt_logprobs)
    max_tokens = params.max_tokens or info.max_model_len - num_prompt_tokens
    if num_prompt_tokens + max_tokens > info.max_model_len:
        raise InvalidRequestError(
            "sampling_params.max_tokens",
            f"max_tokens ({max_tokens}) and the prompt ({num_prompt_tokens} tokens) together are "
            f"over the model's {info.max_model_len}",
        )
    # The last token is never fed back, so its KV needs no place.
    num_kv_tokens = num_prompt_tokens + max_tokens - 1
    if num_kv_tokens > info.num_kv_blocks * info.block_size:
        raise InvalidRequestError(
            "sampling_params.max_tokens",
            f"prompt and max_tokens need the KV of {num_kv_tokens} tokens; the whole cache has "
            f"place for {info.num_kv_blocks * info.block_size}",
        )


def _check_params(params: SamplingParams, info: ModelInfo) -> None:
    """Every id that a parameter names must be the model's."""
    _check_ids("sampling_params.stop_token_ids", params.stop_token_ids, info)
    _check_ids("sampling_params.allowed_token_ids", params.allowed_token_ids, info)
    _check_ids("sampling_params.logit_bias", [i for i, _ in params.logit_bias], info)
    for ids in params.bad_words_token_ids:
        _check_ids("sampling_params.bad_words_token_ids", ids, info)


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


def _check_prompt(prompt_token_ids: Sequence[int], info: ModelInfo) -> None:
    if not prompt_token_ids:
        raise InvalidRequestError("prompt_token_ids", "the prompt is empty")
    if len(prompt_token_ids) >= info.max_model_len:
        raise InvalidRequestError(
            "prompt_token_ids",
            f"the prompt has {len(prompt_token_ids)} tokens; the model takes at most "
            f"{info.max_model_len} with the answer",
        )
    _check_ids("prompt_token_ids", prompt_token_ids, info)


def _check_ids(field: str, token_ids: Sequence[int], info: ModelInfo) -> None:
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < info.vocab_size:
        unknown = next(i for i in token_ids if not 0 <= i < info.vocab_size)
        raise InvalidRequestError(
            field, f"token id {unknown} is unknown; the vocabulary has {info.vocab_size} entries"
        )
