"""Heartbeats: whether an engine lives, as far as a session tells."""

from collections.abc import Callable

from folovllm.liveness import LivenessConfig, Silence

# An engine that speaks by itself is sent one every so many times, to know that this service lives.
_SELDOM = 4


class Heartbeats:
    """Asks one engine for signs of life and counts how long it gives none."""

    def __init__(
        self, config: LivenessConfig, send: Callable[[], None], on_change: Callable[[], None]
    ) -> None:
        """`send` sends a heartbeat; `on_change` is called when `is_silent` has changed."""
        self._interval = config.heartbeat
        self._silence = Silence(config)
        self._send = send
        self._on_change = on_change
        self.is_silent = False
        """Whether it gets nothing new."""

    @property
    def heard_at(self) -> float:
        """When the engine has said something last, by the event loop's clock."""
        return self._silence.heard_at

    def ask(self) -> None:
        """Asks for a sign of life at once."""
        self._send()

    def heard(self) -> None:
        """The engine has said something."""
        self._silence.end()

    async def until_lost(self) -> None:
        """Sends heartbeats, and returns when the engine is given up."""
        silence, interval = self._silence, self._interval
        since_sent = _SELDOM * interval
        while not silence.is_lost:
            is_quiet = silence.seconds >= interval / 2
            if since_sent >= (interval if is_quiet else _SELDOM * interval):
                self._send()
                since_sent = 0.0
            # As seldom as that will do, since each time costs more than a token.
            seconds = interval / 4 if is_quiet else interval
            await silence.wait(seconds)
            since_sent += seconds
            if silence.is_silent is not self.is_silent:
                self.is_silent = silence.is_silent
                self._on_change()
