"""Log-probabilities of tokens, in the raw distribution: the model's logits before any parameter."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from folovllm.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Logprob:
    """One candidate token at one position; logprob and rank are None if there is none.

    decoded_token is its text by itself, where the tokenizer is in the same process; the contract
    has the id alone.
    """

    token_id: int
    logprob: float | None
    rank: int | None
    decoded_token: str | None = None

    def to_proto(self) -> types_pb2.Logprob:
        """The message of the contract."""
        return types_pb2.Logprob(token_id=self.token_id, logprob=self.logprob, rank=self.rank)

    @classmethod
    def from_proto(cls, message: types_pb2.Logprob) -> "Logprob":
        """Reads a message of the contract."""
        return cls(
            message.token_id,
            message.logprob if message.HasField("logprob") else None,
            message.rank if message.HasField("rank") else None,
        )


@dataclass(frozen=True, slots=True)
class PositionLogprobs(Mapping[int, Logprob]):
    """The token at a position, and the best candidates for it, best first.

    As a mapping it has all of them by token id, the token first.
    """

    token: Logprob
    top: tuple[Logprob, ...] = ()

    def __getitem__(self, token_id: int) -> Logprob:
        for candidate in (self.token, *self.top):
            if candidate.token_id == token_id:
                return candidate
        raise KeyError(token_id)

    def __iter__(self) -> Iterator[int]:
        yield self.token.token_id
        for candidate in self.top:
            if candidate.token_id != self.token.token_id:
                yield candidate.token_id

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def to_proto(self) -> types_pb2.PositionLogprobs:
        """The message of the contract."""
        return types_pb2.PositionLogprobs(
            token=self.token.to_proto(), top=[candidate.to_proto() for candidate in self.top]
        )

    @classmethod
    def from_proto(cls, message: types_pb2.PositionLogprobs) -> "PositionLogprobs":
        """Reads a message of the contract."""
        return cls(Logprob.from_proto(message.token), tuple(map(Logprob.from_proto, message.top)))
