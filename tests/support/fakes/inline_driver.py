"""InlineDriver: an engine on the event loop, for tests in which the loop's time is all there is."""

import asyncio
from collections import deque
from collections.abc import Callable

from engine_service.engine.commands import Command, Matchers
from engine_service.engine.driving.engine_work import EngineWork, Outcome


class InlineDriver:
    """An EngineDriver without a thread. What a step has led to is delivered when it has passed."""

    def __init__(self, seconds: Callable[[Outcome], float] = lambda _: 0.0) -> None:
        """`seconds` says how long a step takes, by the loop's time."""
        self._seconds = seconds
        self._inbox: deque[tuple[Command, Matchers] | None] = deque()  # None ends it
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    @property
    def thread_id(self) -> int:
        return 0

    def start(self, work: EngineWork) -> None:
        self._task = asyncio.create_task(self._run(work))

    def put(self, command: Command, matchers: Matchers = ()) -> None:
        self._inbox.append((command, matchers))
        self._wake.set()

    def stop(self) -> None:
        self._inbox.append(None)
        self._wake.set()

    async def join(self, max_seconds: float) -> bool:
        if self._task is None:
            return True
        return bool((await asyncio.wait({self._task}, timeout=max_seconds))[0])

    def tell(self, function: Callable[..., object], *arguments: object) -> None:
        self._loop.call_soon(function, *arguments)

    async def _run(self, work: EngineWork) -> None:
        if not work.start():
            return
        with work.running():
            while await self._take_commands(work):
                outcome = work.step()
                await asyncio.sleep(self._seconds(outcome))
                work.deliver(outcome)

    async def _take_commands(self, work: EngineWork) -> bool:
        work.end_overdue()
        while self._inbox or work.rests():
            while not self._inbox:
                self._wake.clear()
                await self._wake.wait()
            item = self._inbox.popleft()
            if item is None:
                return False
            work.apply(*item)
        return True
