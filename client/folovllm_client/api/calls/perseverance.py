"""Perseverance: how often and for how long a stream that broke is taken up again."""

import time
from collections.abc import Callable

from folovllm.errors import (
    ConnectionLostError,
    FolovError,
    QueueFullError,
    RequestLostError,
    UnavailableError,
)

# Attempts in a row that bring no message, after which the last one's error is raised. With the
# pauses between them that takes at least 15 seconds: a server that starts anew is back by then.
_MAX_FAILURES = 14
# Seconds of the first pause, each of which is twice as long as the one before, and of the longest.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


class Perseverance:
    """Of one stream, from its first call on."""

    def __init__(
        self,
        deadline: float | None,
        num_servers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`deadline` is the seconds that all calls have together."""
        self.seconds_left = deadline
        """What the next call has; None is without end."""
        self._num_servers = num_servers
        self._clock = clock
        self._ends = None if deadline is None else clock() + deadline
        self._num_failures = 0

    def delay(self, error: FolovError, has_begun: bool, advanced: bool) -> float:
        """The seconds until the next call. Raises the error if there is to be none.

        `has_begun` is whether any message has come, and `advanced` whether one has in the last
        call. Before the first one an error is for the caller as ever, but for a connection that
        broke, and where there are servers that were not asked yet.
        """
        self._num_failures = 1 if advanced else self._num_failures + 1
        if not self._may_help(error, has_begun) or self._num_failures >= _MAX_FAILURES:
            raise error
        pause = min(_FIRST_PAUSE * 2.0 ** (self._num_failures - 1), _LONGEST_PAUSE)
        if isinstance(error, QueueFullError):
            pause = max(pause, error.retry_after)
        if self._ends is not None:
            self.seconds_left = self._ends - self._clock() - pause
            if self.seconds_left <= 0:
                raise error
        return pause

    def _may_help(self, error: FolovError, has_begun: bool) -> bool:
        """Whether another call may go better."""
        if isinstance(error, RequestLostError):
            return False
        if has_begun:
            return isinstance(error, UnavailableError | QueueFullError)
        return isinstance(error, ConnectionLostError) or (
            isinstance(error, UnavailableError) and self._num_failures < self._num_servers
        )
