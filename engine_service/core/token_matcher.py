"""TokenMatcher: what the scheduler needs of a grammar that an output follows."""

from typing import Protocol


class TokenMatcher(Protocol):
    """The state of one sequence in the grammar that its output must follow."""

    @property
    def must_stop(self) -> bool:
        """Whether the output is complete and only its end can follow."""
        ...

    @property
    def is_spent(self) -> bool:
        """Whether the grammar no longer constrains the output, which continues without it."""
        ...

    def advance(self, token_id: int) -> None:
        """Consumes a drawn token; raises if the grammar cannot be followed any further."""
        ...

    def copy(self) -> "TokenMatcher":
        """One in the same state, for a fork."""
        ...
