"""How long a peer has said nothing. Both services count it alike."""

import asyncio
import time
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

# A tick that lasts longer, in ticks, was held up by our own event loop.
_MAX_TICKS = 2


class Silence:
    """Counts the seconds in which a peer said nothing though our own event loop ran.

    So a process that stood still itself blames no one for it.
    """

    def __init__(self, config: LivenessConfig, tick: float) -> None:
        """`tick` is the seconds after which it counts again."""
        self._config = config
        self._tick = tick
        self._counted_until = time.monotonic()
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
        self._counted_until = time.monotonic()

    async def tick(self) -> None:
        """Waits, and counts the time."""
        await asyncio.sleep(self._tick)
        now = time.monotonic()
        self.seconds += min(now - self._counted_until, _MAX_TICKS * self._tick)
        self._counted_until = now
