"""TokenIds: the ids of a prompt or a sequence, most of which may be shared.

A prompt is held once however many sequences continue it: its n continuations, the branches of a
fork, the continuations of a score. Each adds only its own. An id takes four bytes, a tenth of what
it takes in a list.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import eq
from typing import overload


def token_array(ids: Iterable[int]) -> "array[int]":
    """Ids at four bytes each. An array of them is returned itself, and must not change any more.

    Raises OverflowError or TypeError if one is not a whole number of 32 bits.
    """
    if isinstance(ids, array) and ids.typecode == "I":
        return ids
    return array("I", ids)


class SharedTokenIds:
    """Ids that sequences have in common, and what was found out about them. They never change."""

    __slots__ = ("block_hashes", "ids")

    def __init__(self, ids: Iterable[int]) -> None:
        """See `token_array`."""
        self.ids = token_array(ids)
        self.block_hashes: dict[tuple[int, str], list[bytes]] = {}
        """By block size and cache salt: hash chains over the first full blocks. Only KV cache
        managers change them."""


class TokenIds(Sequence[int]):
    """Shared ids, then own ones. It equals every sequence of the same ids.

    Only the sequence that it belongs to appends to `own`, of which nothing else may keep a
    memoryview. A slice is a copy, as an array.
    """

    __slots__ = ("own", "shared")

    def __init__(self, shared: SharedTokenIds, own: Iterable[int] = ()) -> None:
        """`own` is copied."""
        self.shared = shared
        self.own = array("I", own)

    @classmethod
    def of(cls, ids: Iterable[int]) -> "TokenIds":
        """The ids as such a sequence; one is returned itself. Raises as `token_array`."""
        return ids if isinstance(ids, cls) else cls(SharedTokenIds(ids))

    def part(self, start: int, end: int) -> "array[int]":
        """The ids from `start` to before `end`, neither of them negative; fewer past the last."""
        ids = self.shared.ids
        num_shared = len(ids)
        if start >= num_shared:
            return self.own[start - num_shared : end - num_shared]
        if end <= num_shared:
            return ids[start:end]
        return ids[start:] + self.own[: end - num_shared]

    def __len__(self) -> int:
        return len(self.shared.ids) + len(self.own)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> "array[int]": ...
    def __getitem__(self, index: int | slice) -> "int | array[int]":
        if isinstance(index, slice):
            start, end, step = index.indices(len(self))
            if step == 1:
                return self.part(start, max(start, end))
            return array("I", (self[i] for i in range(start, end, step)))
        ids = self.shared.ids
        if index < 0:
            index += len(self)
            if index < 0:
                raise IndexError("there are fewer token ids")
        num_shared = len(ids)
        return ids[index] if index < num_shared else self.own[index - num_shared]

    def __iter__(self) -> Iterator[int]:
        return chain(self.shared.ids, self.own)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence | array):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)})"
