"""Lanes: how many builds run at once, and whose turn it is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine_service.structured_output.rehearsal.fair_queue import Claim, FairQueue
from engine_service.structured_output.rehearsal.limits import RehearsalLimits
from folovllm.errors import QueueFullError

_MIN_RETRY_SECONDS, _MAX_RETRY_SECONDS = 1.0, 10.0
# Of a new turn's length in the mean of all.
_WEIGHT = 0.1

_Turn = asyncio.Future[None]


class Lanes:
    """Lanes with one queue. Belongs to an event loop, whose clock it goes by."""

    def __init__(self, count: int, limits: RehearsalLimits) -> None:
        self._count = count
        self._num_free = count
        self._max_wait = limits.max_wait_seconds
        self._queue: FairQueue[_Turn] = FairQueue(limits.max_queued, limits.max_queued_bytes)
        self._mean_seconds = 0.1

    @property
    def num_running(self) -> int:
        """Turns that are taken now."""
        return self._count - self._num_free

    @property
    def num_waiting(self) -> int:
        """Claims in the queue."""
        return len(self._queue)

    @asynccontextmanager
    async def turn(self, caller: str, num_bytes: int) -> AsyncIterator[None]:
        """Waits for a lane and keeps it. Raises QueueFullError."""
        loop = asyncio.get_running_loop()
        claim = Claim(loop.create_future(), caller, num_bytes)
        await self._wait_for(claim)
        began = loop.time()
        try:
            yield
        finally:
            seconds = loop.time() - began
            self._mean_seconds += _WEIGHT * (seconds - self._mean_seconds)
            self._queue.charge(claim, seconds)
            self._release()

    async def _wait_for(self, claim: Claim[_Turn]) -> None:
        if self._num_free:
            self._num_free -= 1
            return
        for dropped in self._queue.push(claim):
            dropped.item.set_exception(self._full("grammars wait for the compiler already"))
        try:
            async with asyncio.timeout(self._max_wait):
                await claim.item
        except QueueFullError:
            raise
        except BaseException as error:
            if claim.item.done() and not claim.item.cancelled():
                self._release()  # its turn has come while it was given up
            self._queue.remove(claim)
            if isinstance(error, TimeoutError):
                raise self._full("grammars before this one take too long") from None
            raise

    def _release(self) -> None:
        while len(self._queue):
            turn = self._queue.pop().item
            if not turn.done():
                turn.set_result(None)
                return
        self._num_free += 1

    def _full(self, reason: str) -> QueueFullError:
        seconds = self._mean_seconds * len(self._queue) / self._count
        retry_after = min(max(seconds, _MIN_RETRY_SECONDS), _MAX_RETRY_SECONDS)
        return QueueFullError(reason, retry_after=retry_after)
