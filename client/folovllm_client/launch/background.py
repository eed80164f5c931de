"""BackgroundServices: both services, watched by a thread, while the caller's does as it likes."""

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from folovllm_client.launch.supervisor import Supervisor, until_serving

_Result = TypeVar("_Result")
_LOG_LINES = 25
_DYING = 1.0
"""Seconds that a process may take to end after its connections."""


class BackgroundServices:
    """The services of `commands`; see Supervisor. `log` holds the last lines that they print."""

    def __init__(self, commands: Mapping[str, Sequence[str]], address: str) -> None:
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        self._address = address
        self._supervisor = Supervisor(commands, address, self.log.append)
        self._loop = asyncio.new_event_loop()
        self._end: concurrent.futures.Future[None] | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Starts them before the body, and stops them after it. Ctrl-C while they stop kills them.

        Raises ServiceEndedError if one ends before both are ready.
        """
        thread = threading.Thread(target=self._loop.run_forever, name="services", daemon=True)
        thread.start()
        try:
            self._submit(self._supervisor.start()).result()
            self._end = self._submit(self._supervisor.ended())
            asyncio.run(self._until_ready(self._end))
            yield
        finally:
            self._stop()
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def check(self) -> None:
        """Raises ServiceEndedError if one of them has ended, or is about to."""
        if self._end is not None:
            with suppress(TimeoutError):  # the connection to a process is lost before it has ended
                self._end.result(_DYING)

    async def _until_ready(self, end: "concurrent.futures.Future[None]") -> None:
        """gRPC's asyncio stack is for the thread that calls the services, not for ours."""
        ended = asyncio.wrap_future(end)
        serving = asyncio.ensure_future(until_serving(self._address))
        try:
            done, _ = await asyncio.wait((serving, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
        for task in done:
            task.result()

    def _stop(self) -> None:
        stopped = self._submit(self._supervisor.stop())
        try:
            stopped.result()
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(self._supervisor.kill)
            stopped.result()

    def _submit(
        self, coroutine: Coroutine[None, None, _Result]
    ) -> "concurrent.futures.Future[_Result]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
