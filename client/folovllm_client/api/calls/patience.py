"""Patience: how often and for how long a request that was refused may come again."""

import time
from collections.abc import Callable

from folovllm.errors import QueueFullError

# Attempts of a request. An engine that keeps its word admits nearly all at the second.
_MAX_ATTEMPTS = 30


class Patience:
    """Of one request, from its first attempt on."""

    def __init__(self, deadline: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`deadline` is the seconds that all attempts have together."""
        self.seconds_left = deadline
        """What the next attempt has; None is without end."""
        self._clock = clock
        self._ends = None if deadline is None else clock() + deadline
        self._num_refusals = 0

    def delay(self, refusal: QueueFullError) -> float:
        """The seconds until the next attempt. Raises the refusal if there is to be none."""
        self._num_refusals += 1
        if self._num_refusals >= _MAX_ATTEMPTS:
            raise refusal
        if self._ends is not None:
            self.seconds_left = self._ends - self._clock() - refusal.retry_after
            if self.seconds_left <= 0:
                raise refusal
        return refusal.retry_after
