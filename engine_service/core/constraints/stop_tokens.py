"""Which token ids end an output."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from folovllm.sampling_params import SamplingParams


def ends_output(
    token_id: int, num_output_tokens: int, params: "SamplingParams", eos_token_ids: Collection[int]
) -> bool:
    """Whether a token ends the output of which it is the last, the `num_output_tokens`-th."""
    if num_output_tokens <= params.min_tokens:
        return False
    return token_id in params.stop_token_ids or is_eos(token_id, params, eos_token_ids)


def is_eos(token_id: int, params: "SamplingParams", eos_token_ids: Collection[int]) -> bool:
    """Whether a token ends an output as the model's end of a sequence."""
    return token_id in eos_token_ids and not params.ignore_eos
