"""Shares: the same share of some work for each of those who wait for it.

As if everybody's work went on at once, each at the same rate: whoever would be done first comes
first. So who brings little goes before those who bring much, whoever brings a thousand things waits
behind its own, and nobody waits for ever.
"""

from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

# Remembered beyond those that wait.
_MAX_REMEMBERED = 1024

K = TypeVar("K")


class Shares(Generic[K]):
    """Of those who wait, or have had more than their share. Work is in any unit."""

    def __init__(self) -> None:
        self._had: dict[K, float] = {}
        self._done = 0.0
        """The work that was done for each who has always waited."""

    def __len__(self) -> int:
        return len(self._had)

    def join(self, key: K, others: Collection[K]) -> None:
        """Somebody begins to wait beside others. Not to have waited has saved it nothing."""
        if len(self._had) > _MAX_REMEMBERED:
            self._had = {each: had for each, had in self._had.items() if each in others}
        self._had[key] = max(self._had.get(key, 0.0), self._done)

    def first(self, wanted: Mapping[K, float]) -> K:
        """Whose turn it is, of those who wait for so much each."""
        return min(wanted, key=lambda key: self._had[key] + wanted[key])

    def charge(self, key: K, work: float, num_waiting: int) -> None:
        """Counts work that was done, or less of it if it was counted before."""
        self._had[key] = self._had.get(key, self._done) + work
        if num_waiting:
            self._done += work / num_waiting

    def forget(self) -> None:
        """For when nobody waits."""
        self._had.clear()
        self._done = 0.0
