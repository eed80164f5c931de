"""OpenSessions: what the sessions of one engine share, and how much of it there may be."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from engine_service.engine.async_engine import AsyncEngine
from engine_service.rpc.load_reports import LoadReports
from folovllm.errors import QueueFullError
from folovllm.serving.turns import Turns

MAX_SESSIONS = 1024
"""Open sessions of an engine: one for each process of a tokenizer service."""
MAX_HELD_BYTES = 32 * 1024 * 1024
"""Of requests that are still being read, as messages; what is read counts for admission. Read,
they need about ten times as much."""
# Seconds after which a front end has come to stay, and may send grammars.
_STAYS_AFTER = 5.0


class OpenSessions:
    """All sessions of one engine, and its other calls where they hold the same things."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._is_prepared = False
        self.load_reports = LoadReports(engine)
        self.turns = Turns()
        self._num_open = 0
        self._num_held_bytes = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Counts a session while it is open. Raises QueueFullError if there are too many."""
        if self._num_open >= MAX_SESSIONS:
            raise QueueFullError(f"{MAX_SESSIONS} sessions are open already")
        self._num_open += 1
        try:
            yield
        finally:
            self._num_open -= 1

    def meet_front_end(self, stays_after: float = _STAYS_AFTER) -> None:
        """Has the engine ready for grammars, soon after the first front end has come.

        A stream that moves here may follow one, and its reader waits.
        """
        if not self._is_prepared:
            self._is_prepared = True
            loop = asyncio.get_running_loop()
            loop.call_later(stays_after, self._engine.warm_up_grammars)

    @contextmanager
    def holding(self, num_bytes: int) -> Iterator[None]:
        """Counts a message while it is read. Raises QueueFullError if too many bytes are."""
        if self._num_held_bytes + num_bytes > MAX_HELD_BYTES:
            raise QueueFullError(f"requests of {self._num_held_bytes} bytes are being read already")
        self._num_held_bytes += num_bytes
        try:
            yield
        finally:
            self._num_held_bytes -= num_bytes
