"""StandingQueue: tells a queue that does not become shorter from a burst, which only needs time.

As CoDel does for packets (RFC 8289): it is not long queues that are bad, but those that stay long.
"""

# Seconds for which a queue may be too long before it stands.
_GRACE_SECONDS = 2.0
# The part of its length at which it no longer does.
_SHORT = 0.25


class StandingQueue:
    """Belongs to one queue, whose length is the time that what comes last has to wait."""

    def __init__(self) -> None:
        self._long_since: float | None = None
        self.stands = False
        """Whether more comes than goes, as far as is known."""

    def update(self, now: float, seconds: float, target_seconds: float) -> None:
        """Its length is `seconds` now, and too long if that is over `target_seconds`."""
        if seconds <= _SHORT * target_seconds:
            self._long_since, self.stands = None, False
        elif seconds <= target_seconds:
            self._long_since = None
        elif self._long_since is None:
            self._long_since = now
        elif now - self._long_since >= _GRACE_SECONDS:
            self.stands = True
