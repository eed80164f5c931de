"""Demand: what a request may cost an engine, as far as it can be known before it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """Of one request, whatever its kind."""

    num_bytes: int
    """Host memory that it holds from its admission to its end."""
    num_prompt_tokens: int
    """Tokens to compute before its first output."""
    num_sequences: int = 1
    max_tokens: int = 0
    """Tokens that each sequence may generate."""
    max_length: int = 0
    """Tokens that each sequence may come to, those before its first output included."""

    def num_tokens(self, expected_tokens: float) -> float:
        """Its work, if what generates freely generates `expected_tokens` a sequence."""
        return self.num_prompt_tokens + self.num_sequences * min(self.max_tokens, expected_tokens)

    def is_within(self, other: "Demand") -> bool:
        """Whether it is no more than another one in any respect."""
        return (
            self.num_bytes <= other.num_bytes
            and self.num_prompt_tokens <= other.num_prompt_tokens
            and self.num_sequences <= other.num_sequences
            and self.max_tokens <= other.max_tokens
        )
