"""FairQueue: what waits, in turns of those who brought it.

Whoever brings a thousand things waits behind its own, and everybody else behind one of them.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Holds at most `max_size` items."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._size = 0
        # Whose turn is next comes first; nobody is listed without an item.
        self._waiting: OrderedDict[Hashable, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return self._size

    def push(self, caller: Hashable, item: T) -> T | None:
        """Adds an item behind the caller's others.

        If that is one too many, the last item of whoever has the most is taken out and returned:
        often the very same.
        """
        self._waiting.setdefault(caller, deque()).append(item)
        self._size += 1
        if self._size <= self._max_size:
            return None
        # Of those with equally many, the caller: it came last.
        greediest = max(self._waiting, key=lambda each: (len(self._waiting[each]), each == caller))
        items = self._waiting[greediest]
        removed = items.pop()
        self._taken(greediest, items)
        return removed

    def pop(self) -> T:
        """Takes out the oldest item of the caller whose turn it is. Raises IndexError if none."""
        if not self._waiting:
            raise IndexError("nothing waits")
        caller, items = next(iter(self._waiting.items()))
        item = items.popleft()
        self._waiting.move_to_end(caller)
        self._taken(caller, items)
        return item

    def _taken(self, caller: Hashable, items: deque[T]) -> None:
        self._size -= 1
        if not items:
            del self._waiting[caller]
