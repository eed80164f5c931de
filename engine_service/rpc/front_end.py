"""FrontEnd: whether the front end of a session lives, as far as its heartbeats tell."""

import asyncio
from collections.abc import Callable

import structlog

from folovllm.liveness import LivenessConfig, Silence
from folovllm.v1 import engine_service_pb2

log: structlog.stdlib.BoundLogger = structlog.get_logger("session")


class FrontEnd:
    """The other end of a session. One that has never sent a heartbeat is never lost."""

    def __init__(self, peer: str, config: LivenessConfig, on_lost: Callable[[], None]) -> None:
        self._peer = peer
        self._on_lost = on_lost
        self._interval = config.heartbeat
        self._silence = Silence(config)
        self._listener: asyncio.Task[None] | None = None  # from the first heartbeat on
        self.answer_due = False
        """Whether a heartbeat has not been answered."""
        self.is_lost = False
        """Whether it was silent for too long, whatever it says now."""

    def heard(self) -> None:
        """A command has come from it."""
        self._silence.end()

    def asks(self) -> None:
        """A heartbeat has come from it."""
        self.answer_due = True
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())

    def answer(self) -> engine_service_pb2.Heartbeat | None:
        """The answer that is due, which counts as given."""
        due, self.answer_due = self.answer_due, False
        return engine_service_pb2.Heartbeat() if due else None

    def leave(self) -> None:
        """The session has ended."""
        if self._listener is not None:
            self._listener.cancel()

    async def _listen(self) -> None:
        while not self._silence.is_lost:
            await self._silence.wait(self._interval)
        self.is_lost = True
        log.warning("front end lost", peer=self._peer, silent_s=round(self._silence.seconds, 1))
        self._on_lost()
