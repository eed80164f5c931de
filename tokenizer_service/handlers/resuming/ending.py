"""Ending: how an output ends with its last token id, as an engine would have ended it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from folovllm.outputs import FinishReason
from folovllm.parameters.stop_tokens import stop_kind
from folovllm.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an output has ended."""

    reason: FinishReason
    stop_token_id: int | None = None
    """The one of stop_token_ids that it ended with."""


@dataclass(frozen=True, slots=True)
class EndingRules:
    """What ends the outputs of one request, besides stop strings."""

    params: SamplingParams
    eos_token_ids: Collection[int]
    max_tokens: int
    """As many ids as its parameters and the model's context allow."""

    def ending_of(self, token_ids: Sequence[int]) -> Ending | None:
        """How an output ends with the last of its ids; None if it goes on.

        A structured output may be complete before its length is reached, which an engine knows.
        """
        if not token_ids:
            return None
        last = token_ids[-1]
        kind = stop_kind(last, len(token_ids), self.params, self.eos_token_ids)
        if kind is not None:
            return Ending(FinishReason.STOP, last if kind == "stop" else None)
        if len(token_ids) >= self.max_tokens and self.params.structured_output is None:
            return Ending(FinishReason.LENGTH)
        return None

    def first_end(self, token_ids: Sequence[int]) -> int | None:
        """The position of the first id that ends an output, the last one aside; None without."""
        suspects = {*self.params.stop_token_ids, *self.eos_token_ids}
        if suspects.isdisjoint(token_ids):
            return None
        for position, token_id in enumerate(token_ids[:-1]):
            if token_id in suspects and stop_kind(
                token_id, position + 1, self.params, self.eos_token_ids
            ):
                return position
        return None
