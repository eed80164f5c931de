"""Replayed: what a processor knows after the token ids of an output that was begun elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Output = TypeVar("Output")


@dataclass(frozen=True, slots=True)
class Replayed(Generic[Output]):
    """The state of one index after the ids that were returned of it."""

    made: Sequence[Output]
    """What the last of the ids has led to, besides the text of a CompletionOutput."""
    stop: str | None
    """The stop string that has ended it."""
    num_tokens: int
    """Ids up to its end by a stop string, or all."""
