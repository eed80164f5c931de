"""What Score returns: how probable given continuations of a prompt are.

Log-probabilities and ranks are of the raw distribution: the model's logits before any parameter.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from folovllm.bounds.table import message_bounds
from folovllm.logprobs import PositionLogprobs
from folovllm.message_fields import MessageFields
from folovllm.v1 import types_pb2

_BOUNDS = message_bounds(types_pb2.ScoreRequest.DESCRIPTOR)
MAX_CONTINUATIONS = _BOUNDS.max_count("continuations")
MAX_SCORED_TOKENS = _BOUNDS.max_elements("continuations")
"""In a prompt and all its continuations."""


@dataclass(frozen=True, slots=True)
class ContinuationScore(MessageFields[types_pb2.ContinuationScore]):
    """One continuation: for each of its tokens the log-probability and the rank, 1 for the best."""

    message_type = types_pb2.ContinuationScore

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ranks: tuple[int, ...]

    @property
    def cumulative_logprob(self) -> float:
        """Sum of logprobs: the log-probability of the whole continuation."""
        return math.fsum(self.logprobs)

    @property
    def is_greedy(self) -> bool:
        """Whether every token is the best one, so that greedy decoding would generate them."""
        return all(rank == 1 for rank in self.ranks)

    def without_first(self, count: int) -> "ContinuationScore":
        """The score without the first `count` tokens, which then belong to the prompt."""
        return ContinuationScore(self.token_ids[count:], self.logprobs[count:], self.ranks[count:])

    @classmethod
    def from_logprobs(cls, positions: Iterable[PositionLogprobs]) -> "ContinuationScore":
        """From a continuation's positions, each of which has a log-probability."""
        tokens = [position.token for position in positions]
        return cls(
            tuple(token.token_id for token in tokens),
            tuple(token.logprob for token in tokens if token.logprob is not None),
            tuple(token.rank for token in tokens if token.rank is not None),
        )


@dataclass(frozen=True, slots=True)
class ScoreOutput(MessageFields[types_pb2.ScoreResponse]):
    """All continuations of one call, in the given order."""

    message_type = types_pb2.ScoreResponse

    request_id: str
    continuations: tuple[ContinuationScore, ...]
