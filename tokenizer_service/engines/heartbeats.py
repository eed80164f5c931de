"""Heartbeats: whether an engine lives, as far as a session tells."""

from collections.abc import Callable

from folovllm.liveness import LivenessConfig, Silence

# In the time between two heartbeats.
_TICKS = 4
# An engine that speaks by itself is sent one so much more seldom, to know that this service lives.
_SELDOM = 4


class Heartbeats:
    """Asks one engine for signs of life and counts how long it gives none."""

    def __init__(
        self, config: LivenessConfig, send: Callable[[], None], on_change: Callable[[], None]
    ) -> None:
        """`send` sends a heartbeat; `on_change` is called when `is_silent` has changed."""
        self._ask_after = config.heartbeat * (1 - 1 / _TICKS)
        self._silence = Silence(config, config.heartbeat / _TICKS)
        self._send = send
        self._on_change = on_change
        self.is_silent = False
        """Whether it gets nothing new."""

    def heard(self) -> None:
        """The engine has said something."""
        self._silence.end()

    async def until_lost(self) -> None:
        """Sends heartbeats, and returns when the engine is given up."""
        silence, since_sent = self._silence, 0
        self._send()
        while not silence.is_lost:
            await silence.tick()
            since_sent += 1
            asks = silence.seconds >= self._ask_after and since_sent >= _TICKS
            if asks or since_sent >= _SELDOM * _TICKS:
                self._send()
                since_sent = 0
            if silence.is_silent is not self.is_silent:
                self.is_silent = silence.is_silent
                self._on_change()
