"""FairQueue: what waits, ordered so that all callers who wait get the same share of the time.

A tokenizer service is one caller of an engine, whoever calls it. So a caller's claims are told
apart by their size, and share its time alike: whoever asks for little waits for others who do, and
not for a flood of large ones. When the queue is full, who fills most of it loses his newest.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from folovllm.serving.lanes.shares import Shares

T = TypeVar("T")


@dataclass(frozen=True)
class Claim(Generic[T]):
    """An item that waits: who wants it, how many bytes it has, and about what time it takes."""

    item: T
    caller: Hashable = None
    num_bytes: int = 0
    seconds: float = 0.0
    """Only needs to be about right; 0 if nobody knows."""

    @property
    def size(self) -> int:
        """The same for sizes up to twice as large."""
        return self.num_bytes.bit_length()


@dataclass
class _Caller(Generic[T]):
    """The claims of one caller who waits, by their size."""

    sizes: dict[int, deque[Claim[T]]] = field(default_factory=dict)
    shares: Shares[int] = field(default_factory=Shares)

    def claims(self) -> Iterator[Claim[T]]:
        for claims in self.sizes.values():
            yield from claims

    def next(self) -> Claim[T]:
        size = self.shares.first({size: each[0].seconds for size, each in self.sizes.items()})
        return self.sizes[size][0]


class FairQueue(Generic[T]):
    """Claims by caller and size. What they took is forgotten when nobody waits."""

    def __init__(self, max_claims: int, max_bytes: int) -> None:
        self._max_claims = max_claims
        self._max_bytes = max_bytes
        self._callers: dict[Hashable, _Caller[T]] = {}  # nobody without a claim
        self._shares: Shares[Hashable] = Shares()
        self._num_bytes = 0
        self._num_claims = 0

    def __len__(self) -> int:
        return self._num_claims

    def push(self, claim: Claim[T]) -> list[Claim[T]]:
        """Adds a claim; returns those that the queue has no room for, perhaps itself."""
        if claim.caller not in self._callers:
            self._shares.join(claim.caller, self._callers)
            self._callers[claim.caller] = _Caller()
        caller = self._callers[claim.caller]
        if claim.size not in caller.sizes:
            caller.shares.join(claim.size, caller.sizes)
            caller.sizes[claim.size] = deque()
        caller.sizes[claim.size].append(claim)
        self._num_claims += 1
        self._num_bytes += claim.num_bytes
        dropped = []
        while self._num_claims > self._max_claims or self._num_bytes > self._max_bytes:
            dropped.append(self._newest_of_most(claim))
            self.remove(dropped[-1])
        return dropped

    def pop(self) -> Claim[T]:
        """Takes the next claim and counts its estimate. Raises IndexError if there is none."""
        if not self._callers:
            raise IndexError("nothing waits")
        nexts = {name: caller.next() for name, caller in self._callers.items()}
        claim = nexts[self._shares.first({name: each.seconds for name, each in nexts.items()})]
        self._count(claim, claim.seconds)
        self.remove(claim)
        return claim

    def charge(self, claim: Claim[T], seconds: float) -> None:
        """Counts what a claim has taken, in place of the estimate."""
        self._count(claim, seconds - claim.seconds)
        if not self._callers:
            self._shares.forget()

    def remove(self, claim: Claim[T]) -> None:
        """Takes a claim out, if it still waits."""
        caller = self._callers.get(claim.caller)
        claims = caller and caller.sizes.get(claim.size)
        if not caller or not claims or claim not in claims:
            return
        claims.remove(claim)
        self._num_claims -= 1
        self._num_bytes -= claim.num_bytes
        if not claims:
            del caller.sizes[claim.size]
        if not caller.sizes:
            del self._callers[claim.caller]

    def _count(self, claim: Claim[T], seconds: float) -> None:
        self._shares.charge(claim.caller, seconds, len(self._callers))
        caller = self._callers.get(claim.caller)
        if caller is not None:
            caller.shares.charge(claim.size, seconds, len(caller.sizes))

    def _newest_of_most(self, pushed: Claim[T]) -> Claim[T]:
        """The last claim of the size that takes most, of the caller who takes most.

        Of equals, that of the claim that has come last.
        """
        name = max(
            self._callers,
            key=lambda each: (self._weight(self._callers[each].claims()), each == pushed.caller),
        )
        sizes = self._callers[name].sizes
        size = max(sizes, key=lambda each: (self._weight(sizes[each]), each == pushed.size))
        return sizes[size][-1]

    def _weight(self, claims: Iterable[Claim[T]]) -> float:
        """The part of the queue that claims fill, by number and bytes."""
        return sum(1 / self._max_claims + claim.num_bytes / self._max_bytes for claim in claims)
