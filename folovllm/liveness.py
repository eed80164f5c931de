"""How long a peer has said nothing. Both services count it alike."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LivenessConfig:
    """When a peer is asked for a sign of life, and when it is given up. All in seconds."""

    heartbeat: float = 1.0
    """After so long without a word it is asked for one."""
    silent: float = 2.0
    """After so long it gets nothing new."""
    lost: float = 10.0
    """After so long it is given up."""


DEFAULT_LIVENESS = LivenessConfig()


class Silence:
    """Counts the seconds in which a peer said nothing though our own event loop ran.

    So a process that stood still itself blames no one for it.
    """

    def __init__(self, config: LivenessConfig) -> None:
        self._config = config
        self.heard_at = asyncio.get_running_loop().time()
        """When the peer has said something last, by the event loop's clock."""
        self._counted_until = asyncio.get_running_loop().time()
        self.seconds = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether the peer gets nothing new."""
        return self.seconds >= self._config.silent

    @property
    def is_lost(self) -> bool:
        """Whether the peer is given up."""
        return self.seconds >= self._config.lost

    def end(self) -> None:
        """The peer has said something."""
        self.seconds = 0.0
        self.heard_at = self._counted_until = asyncio.get_running_loop().time()

    async def wait(self, seconds: float) -> None:
        """Waits, and counts the time; hardly more of it if our own event loop was held up."""
        await asyncio.sleep(seconds)
        now = asyncio.get_running_loop().time()
        latest = seconds + self._config.heartbeat / 4
        self.seconds += min(now - self._counted_until, latest)
        self._counted_until = now
