"""Which token ids end an output."""

from collections.abc import Collection
from typing import Literal, Protocol


class StopRules(Protocol):
    """What SamplingParams say of it."""

    @property
    def min_tokens(self) -> int:
        """Ids before which none ends the output."""

    @property
    def ignore_eos(self) -> bool:
        """Whether the model's own ids do not end it."""

    @property
    def stop_token_ids(self) -> Collection[int]:
        """Ids that end it, besides the model's."""


def stop_kind(
    token_id: int, num_output_tokens: int, params: StopRules, eos_token_ids: Collection[int]
) -> Literal["eos", "stop"] | None:
    """How a token ends the output of which it is the `num_output_tokens`-th; None if it does not.

    As the model's end of a sequence, or as one of the request's stop tokens.
    """
    if num_output_tokens <= params.min_tokens:
        return None
    if token_id in eos_token_ids and not params.ignore_eos:
        return "eos"
    return "stop" if token_id in params.stop_token_ids else None
