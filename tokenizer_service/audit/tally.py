"""Tally: how many requests each engine took part in the verification of, and how many differed.

Several processes of a service may count together, through a file that they inherit.
"""

import fcntl
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verified:
    """Of one engine."""

    num_verified: int = 0
    """Requests that it and another engine have computed, and that were compared."""
    num_differing: int = 0
    """Those of them of which a token or a log-probability differed."""


class Tally:
    """Counts by the addresses of engines. Never waits for another process."""

    def __init__(self, addresses: Sequence[str], shared: int | None = None) -> None:
        """`shared` is the descriptor of an empty file that processes share."""
        self._places = {address: place for place, address in enumerate(addresses)}
        self._shared = shared
        # What is not in the file: all, without one.
        self._own = self._zeros()

    def add(self, address: str, differs: bool) -> None:
        """Counts one comparison."""
        place = self._places.get(address)
        if place is not None:
            self._own[2 * place] += 1
            self._own[2 * place + 1] += differs
            self._share()

    def of(self, address: str) -> Verified:
        """What all processes have counted, as far as it is known."""
        place = self._places.get(address)
        if place is None:
            return Verified()
        self._share()
        counts = self._zeros() if self._shared is None else self._read(self._shared)
        start = 2 * place
        pairs = zip(counts[start : start + 2], self._own[start : start + 2], strict=True)
        return Verified(*(one + other for one, other in pairs))

    def _share(self) -> None:
        """Adds the own counts to the file, unless another process does so now: then later."""
        if self._shared is None or not any(self._own):
            return
        try:
            fcntl.lockf(self._shared, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        try:
            counts = self._read(self._shared)
            total = array("Q", map(sum, zip(counts, self._own, strict=True)))
            os.pwrite(self._shared, total.tobytes(), 0)
            self._own = self._zeros()
        finally:
            fcntl.lockf(self._shared, fcntl.LOCK_UN)

    def _read(self, file: int) -> "array[int]":
        counts = self._zeros()
        data = os.pread(file, len(counts) * counts.itemsize, 0)
        if data:
            counts = array("Q")
            counts.frombytes(data)
        return counts

    def _zeros(self) -> "array[int]":
        return array("Q", [0] * (2 * len(self._places)))
