"""EngineThread: an engine on a thread of its own, which then owns all device objects.

Commands come through a blocking queue, so an idle engine uses no CPU.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress

from engine_service.engine.commands import Command, Matchers
from engine_service.engine.driving.engine_work import EngineWork


class EngineThread:
    """An EngineDriver. Made on the event loop that is told."""

    def __init__(self) -> None:
        # None stops the thread.
        self._inbox: queue.SimpleQueue[tuple[Command, Matchers] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread: threading.Thread | None = None

    @property
    def thread_id(self) -> int:
        """See EngineDriver."""
        assert self._thread is not None and self._thread.ident is not None
        return self._thread.ident

    def start(self, work: EngineWork) -> None:
        """See EngineDriver."""
        self._thread = threading.Thread(target=self._run, args=(work,), name="engine", daemon=True)
        self._thread.start()

    def put(self, command: Command, matchers: Matchers = ()) -> None:
        """See EngineDriver."""
        self._inbox.put((command, matchers))

    def stop(self) -> None:
        """See EngineDriver."""
        self._inbox.put(None)

    async def join(self, max_seconds: float) -> bool:
        """See EngineDriver."""
        thread = self._thread
        if thread is None:
            return True
        await asyncio.to_thread(thread.join, max_seconds)
        return not thread.is_alive()

    def tell(self, function: Callable[..., object], *arguments: object) -> None:
        """See EngineDriver. Nothing happens if the loop is closed and nobody is left to tell."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    # From here on: that thread.

    def _run(self, work: EngineWork) -> None:
        if not work.start():
            return
        with work.running():
            while self._take_commands(work):
                work.deliver(work.step())

    def _take_commands(self, work: EngineWork) -> bool:
        """Applies all commands, waiting for one if there is nothing to do; False to stop."""
        work.end_overdue()
        while True:
            try:
                item = self._inbox.get(block=work.rests())
            except queue.Empty:
                return True
            if item is None:
                return False
            work.apply(*item)
