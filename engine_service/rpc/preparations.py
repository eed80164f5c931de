"""Preparations: requests of one session that the engine does not have yet.

A long one is read in pieces, and one with a grammar waits for it. Meanwhile commands for others are
executed; what concerns one of these waits with it or ends it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from engine_service.rpc.session_call import SessionCall
from folovllm.serving.background_tasks import start_background


class Preparations:
    """The work that leads to each of these requests."""

    def __init__(self) -> None:
        self._tasks: dict[SessionCall, asyncio.Task[None]] = {}

    def __contains__(self, call: SessionCall) -> bool:
        return call in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def start(
        self,
        call: SessionCall,
        work: Coroutine[Any, Any, None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        """Begins the work for a request, until whose end the request is one of these."""

        def ended(error: BaseException | None) -> None:
            del self._tasks[call]
            on_end(error)

        self._tasks[call] = start_background(work, f"prepare {call.name}", ended)

    async def wait_for(self, call: SessionCall | None) -> None:
        """Returns when a request is none of these."""
        if call in self._tasks:
            await asyncio.wait([self._tasks[call]])

    def cancel(self, call: SessionCall) -> None:
        """Ends the work for a request, if it is one of these."""
        if call in self._tasks:
            self._tasks[call].cancel()

    def cancel_all(self) -> None:
        """Ends all work."""
        for task in self._tasks.values():
            task.cancel()
