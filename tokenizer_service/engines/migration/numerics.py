"""Numerics: which engines give a request the same tokens, and how other ones are treated."""

from dataclasses import dataclass
from enum import StrEnum

from folovllm.v1 import types_pb2


class Migrate(StrEnum):
    """Where a stream may go on whose reader has got output already."""

    EXACT = "exact"
    """At an engine that gives it the tokens of an undisturbed run."""
    ANY = "any"
    """There if possible, else at any engine."""
    NEVER = "never"
    """Nowhere."""


@dataclass(frozen=True, slots=True)
class Numerics:
    """What an engine's tokens depend on beside the request."""

    fingerprint: str
    """Empty if they also depend on what runs at the same time."""
    max_model_len: int = 0
    eos_token_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, info: types_pb2.ModelInfo) -> "Numerics":
        """Those of an engine."""
        return cls(info.numerics_fingerprint, info.max_model_len, tuple(info.eos_token_ids))

    def is_like(self, other: "Numerics") -> bool:
        """Whether an engine of these goes on exactly with what one of the others has begun."""
        return bool(self.fingerprint) and self == other
