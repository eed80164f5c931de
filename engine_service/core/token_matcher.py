"""TokenMatcher: what the scheduler asks of a grammar that an output follows."""

from typing import Protocol


class TokenMatcher(Protocol):
    """Where one sequence stands in the grammar that its output must follow."""

    @property
    def must_stop(self) -> bool:
        """Whether the output is complete and nothing but its end can follow."""
        ...

    @property
    def is_spent(self) -> bool:
        """Whether the grammar binds nothing any more, so that the sequence goes on without it."""
        ...

    def advance(self, token_id: int) -> bool:
        """Moves on by a drawn token; False where the grammar cannot be followed any further."""
        ...

    def copy(self) -> "TokenMatcher":
        """One at the same place, for a fork."""
        ...
