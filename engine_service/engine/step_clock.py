"""StepClock: since when a step is computed, and how long it may take.

A step is stuck when it takes ten times as long as the slowest of its size has, and at least a given
time. A size that has not been seen yet is expected to take what the next smaller one has, in
proportion.
"""

import threading
import time
from collections.abc import Callable

_FACTOR = 10.0


class StepClock:
    """The engine's thread starts and stops it, others look at it.

    Sizes are powers of two of tokens.
    """

    def __init__(self, floor: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        """No step is stuck before `floor` seconds, by `clock`."""
        self.floor = floor
        self._clock = clock
        self.steps = threading.Event()
        """Clear while there is nothing to compute."""
        self.on_wake: Callable[[], object] | None = None
        """Called before the first step after that, by the thread that takes it."""
        self._began: float | None = None
        self._slowest: dict[int, float] = {}  # seconds, by the size's exponent

    def begin(self) -> None:
        """A step begins."""
        self._began = self._clock()
        if not self.steps.is_set():
            self.steps.set()
            if self.on_wake is not None:
                self.on_wake()

    def end(self, num_tokens: int) -> None:
        """It has ended, and has computed so many tokens."""
        assert self._began is not None
        seconds, size = self._clock() - self._began, num_tokens.bit_length()
        self._began = None
        if seconds > self._slowest.get(size, 0.0):
            self._slowest[size] = seconds

    def rest(self) -> None:
        """There is nothing to compute until the next step begins."""
        self.steps.clear()

    @property
    def seconds(self) -> float:
        """How long the present step has taken; 0 between two."""
        began = self._began
        return 0.0 if began is None else self._clock() - began

    def limit(self, num_tokens: int) -> float:
        """Seconds after which a step of so many tokens is stuck."""
        size = num_tokens.bit_length()
        seen = self._slowest.get(size)
        if seen is None:
            # A copy, since the engine's thread may add a size meanwhile.
            smaller = [known for known in self._slowest.copy() if known < size]
            nearest = max(smaller, default=size)
            seen = self._slowest.get(nearest, 0.0) * 2.0 ** (size - nearest)
        return max(self.floor, _FACTOR * seen)
