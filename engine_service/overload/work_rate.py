"""WorkRate: how fast an engine works, as far as that can be seen from outside."""

import math

# Seconds of work at full speed after which a measurement weighs a third.
_MEMORY_SECONDS = 5.0
# Fewer say nothing.
_MIN_SECONDS = 0.3


class WorkRate:
    """Tokens of work a second, measured only while the engine has more than it can start.

    At other times it does what it is asked, which says nothing of what it can.
    """

    def __init__(self) -> None:
        self._num_tokens = 0.0
        self._seconds = 0.0
        self._since: float | None = None  # at full speed

    def step(self, now: float, num_tokens: float, saturated: bool) -> None:
        """A step has done so much work; `saturated` is whether something waits in spite of it."""
        since, self._since = self._since, now if saturated else None
        if since is None:
            return
        seconds = now - since
        kept = math.exp(-seconds / _MEMORY_SECONDS)
        self._num_tokens = self._num_tokens * kept + num_tokens
        self._seconds = self._seconds * kept + seconds

    @property
    def per_second(self) -> float | None:
        """None until it is known."""
        if self._seconds < _MIN_SECONDS or not self._num_tokens:
            return None
        return self._num_tokens / self._seconds
