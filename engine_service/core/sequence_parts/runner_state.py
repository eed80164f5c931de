"""RunnerState: what a runner keeps of one sequence from step to step."""

from dataclasses import dataclass
from typing import Protocol


class Forkable(Protocol):
    """A state that can be continued twice."""

    def fork(self) -> "Forkable":
        """One of its own for a sequence with the same tokens so far."""
        ...


@dataclass(slots=True)
class RunnerState:
    """Belongs to a sequence: a preempted one keeps it, and it is dropped when the sequence ends.

    The scheduler does not look into it.
    """

    token_counts: Forkable | None = None
    """Of the tokens that a runner has seen, if penalties need them."""

    def fork(self) -> "RunnerState":
        """That of a sequence which has the same tokens, and as many of them in its prompt."""
        return RunnerState(self.token_counts and self.token_counts.fork())
