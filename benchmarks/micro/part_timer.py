"""PartTimer: how long a piece of work spends in each of its parts, without changing them."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock


class Place(NamedTuple):
    """Where a function of a part is looked up when it is called: a class or a module."""

    part: str
    owner: Any
    name: str


class PartTimer:
    """Sums seconds by part. What one part spends in another counts for the other alone."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._inner: list[float] = [0.0]
        """For each call that is under way, from the outermost: seconds in the parts inside it."""

    @contextmanager
    def watching(self, places: Sequence[Place]) -> Iterator[None]:
        """Times the functions of these places until the end of the block."""
        with ExitStack() as stack:
            for part, owner, name in places:
                timed = self._timed(part, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
            yield

    def take(self) -> dict[str, float]:
        """The seconds of each part since the last call."""
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds

    def _timed(self, part: str, function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def timed(*args: object, **kwargs: object) -> object:
            started = self._now()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                whole = self._now() - started
                self._seconds[part] += whole - self._inner.pop()
                self._inner[-1] += whole

        return timed
