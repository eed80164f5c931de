"""FairQueue: whoever has used least is next; of several requests of one caller, likewise.

A tokenizer service is one caller, whoever calls it. So a caller's requests are told apart by their
size: whoever asks for little waits for others who do, and not for a flood of large ones. When the
queue is full, who fills most of it loses the newest of his.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

# Remembered beyond those that wait.
_MAX_CALLERS = 1024

T = TypeVar("T")


@dataclass(frozen=True)
class Claim(Generic[T]):
    """An item that waits: who wants it, and how many bytes it has."""

    item: T
    caller: str
    num_bytes: int

    @property
    def size_class(self) -> int:
        """Of sizes up to twice as large."""
        return self.num_bytes.bit_length()


@dataclass
class _Share(Generic[T]):
    """The claims of one size."""

    used: float
    claims: deque[Claim[T]] = field(default_factory=deque)


@dataclass
class _Caller(Generic[T]):
    used: float
    shares: dict[int, _Share[T]] = field(default_factory=dict)

    def claims(self) -> Iterator[Claim[T]]:
        for share in self.shares.values():
            yield from share.claims


class FairQueue(Generic[T]):
    """Claims by caller and size. What was used is forgotten when nobody waits."""

    def __init__(self, max_claims: int, max_bytes: int) -> None:
        self._max_claims = max_claims
        self._max_bytes = max_bytes
        self._callers: dict[str, _Caller[T]] = {}
        self._num_bytes = 0
        self._num_claims = 0

    def __len__(self) -> int:
        return self._num_claims

    def push(self, claim: Claim[T]) -> list[Claim[T]]:
        """Adds a claim; returns those that the queue has no room for, perhaps itself."""
        if claim.caller not in self._callers:
            self._forget_the_idle()
            self._callers[claim.caller] = _Caller(_least(self._callers.values()))
        shares = self._callers[claim.caller].shares
        if claim.size_class not in shares:
            shares[claim.size_class] = _Share(_least(shares.values()))
        shares[claim.size_class].claims.append(claim)
        self._num_claims += 1
        self._num_bytes += claim.num_bytes
        dropped = []
        while self._num_claims > self._max_claims or self._num_bytes > self._max_bytes:
            dropped.append(self._newest_of_most())
            self.remove(dropped[-1])
        return dropped

    def pop(self) -> Claim[T]:
        """Takes the next claim; there is one."""
        caller = min((c for c in self._callers.values() if any(c.claims())), key=_used)
        share = min((s for s in caller.shares.values() if s.claims), key=_used)
        claim = share.claims[0]
        self._take(claim)
        return claim

    def charge(self, claim: Claim[T], seconds: float) -> None:
        """Counts what a claim that was taken has used."""
        caller = self._callers.get(claim.caller)
        if caller is not None:
            caller.used += seconds
            share = caller.shares.get(claim.size_class)
            if share is not None:
                share.used += seconds
        if not self._num_claims:
            self._callers.clear()

    def remove(self, claim: Claim[T]) -> None:
        """Takes a claim out, if it still waits."""
        caller = self._callers.get(claim.caller)
        share = caller and caller.shares.get(claim.size_class)
        if share and claim in share.claims:
            self._take(claim)

    def _take(self, claim: Claim[T]) -> None:
        self._callers[claim.caller].shares[claim.size_class].claims.remove(claim)
        self._num_claims -= 1
        self._num_bytes -= claim.num_bytes

    def _newest_of_most(self) -> Claim[T]:
        """The last claim of the size that takes most, of the caller who takes most."""
        caller = max(self._callers.values(), key=lambda each: self._weight(each.claims()))
        share = max(caller.shares.values(), key=lambda each: self._weight(each.claims))
        return share.claims[-1]

    def _weight(self, claims: Iterable[Claim[T]]) -> float:
        """The part of the queue that claims fill, by number and bytes."""
        return sum(1 / self._max_claims + claim.num_bytes / self._max_bytes for claim in claims)

    def _forget_the_idle(self) -> None:
        if len(self._callers) >= _MAX_CALLERS:
            waiting = {name: each for name, each in self._callers.items() if any(each.claims())}
            self._callers = waiting


def _used(each: _Caller[T] | _Share[T]) -> float:
    return each.used


def _least(others: Iterable[_Caller[T]] | Iterable[_Share[T]]) -> float:
    """What one that comes late counts as having used, since waiting has saved it nothing."""
    return min((each.used for each in others), default=0.0)
