"""Heartbeats: whether an engine lives, as far as a session tells."""

from collections.abc import Callable

from folovllm.liveness import HEARTBEAT_TICKS, LivenessConfig, Silence


class Heartbeats:
    """Asks one engine for signs of life and counts how long it gives none."""

    def __init__(
        self, config: LivenessConfig, send: Callable[[], None], on_change: Callable[[], None]
    ) -> None:
        """`send` sends a heartbeat; `on_change` is called when `is_silent` has changed."""
        self._silence = Silence(config)
        self._send = send
        self._on_change = on_change
        self.is_silent = False
        """Whether it gets nothing new."""

    def heard(self) -> None:
        """The engine has said something."""
        self._silence.end()

    async def until_lost(self) -> None:
        """Sends heartbeats, and returns when the engine is given up."""
        silence, ticks = self._silence, 0
        while not silence.is_lost:
            if ticks % HEARTBEAT_TICKS == 0:
                self._send()
            await silence.tick()
            ticks += 1
            if silence.is_silent is not self.is_silent:
                self.is_silent = silence.is_silent
                self._on_change()
