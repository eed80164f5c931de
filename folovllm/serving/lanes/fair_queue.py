"""FairQueue: what waits, ordered so that all who wait get the same share of the work.

As if everybody's work went on at once, each at the same rate: whoever would be done first comes
first. So who brings little goes before those who bring much, whoever brings a thousand things waits
behind its own, and nobody waits for ever.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    item: T
    cost: float
    due: float
    """Until when each waiting caller would have had so much work done."""


class FairQueue(Generic[T]):
    """Holds at most `max_size` items; costs are in any unit, and need only be about right."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._size = 0
        self._waiting: dict[Hashable, deque[_Waiting[T]]] = {}  # nobody without an item
        self._done = 0.0
        """The work that was done for each who has always waited."""

    def __len__(self) -> int:
        return self._size

    def push(self, caller: Hashable, item: T, cost: float = 1.0) -> T | None:
        """Adds an item behind the caller's others.

        If that is one too many, the last item of whoever has the most is taken out and returned:
        often the very same.
        """
        items = self._waiting.setdefault(caller, deque())
        begin = items[-1].due if items else self._done
        items.append(_Waiting(item, cost, begin + cost))
        self._size += 1
        if self._size <= self._max_size:
            return None
        # Of those with equally many, the caller: it came last.
        greediest = max(self._waiting, key=lambda each: (len(self._waiting[each]), each == caller))
        removed = self._waiting[greediest].pop()
        self._taken(greediest)
        return removed.item

    def pop(self) -> T:
        """Takes out the item whose turn it is. Raises IndexError if there is none."""
        if not self._waiting:
            raise IndexError("nothing waits")
        caller = min(self._waiting, key=lambda each: self._waiting[each][0].due)
        taken = self._waiting[caller].popleft()
        self._done += taken.cost / len(self._waiting)
        self._taken(caller)
        return taken.item

    def _taken(self, caller: Hashable) -> None:
        self._size -= 1
        if not self._waiting[caller]:
            del self._waiting[caller]
