"""Lane: children that take jobs from one queue, and the jobs themselves."""

import asyncio
import math
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass

from folovllm.errors import FolovError, QueueFullError, UnavailableError
from folovllm.serving.lanes.child_process import ChildProcess, OverTimeError
from folovllm.serving.lanes.fair_queue import FairQueue
from folovllm.serving.lanes.work import Work

# A job gets so many seconds, and ten times its limit, on a machine that has other things to do.
_WALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Job:
    """What a caller waits for. Its payload is made when its turn comes."""

    payload: Callable[[], bytes]
    caller: Hashable
    result: asyncio.Future[bytes]

    def fail(self, error: Exception) -> None:
        """Tells the caller, unless it has left."""
        if not self.result.done():
            self.result.set_exception(error)


class Lane:
    """`count` children whose jobs take up to `seconds` of processor time each.

    A job that takes more is given to `over_time`. A child ends after `idle_seconds` without a job.
    """

    def __init__(
        self,
        work: Work,
        count: int,
        seconds: float,
        over_time: Callable[[Job, OverTimeError], None],
        *,
        max_waiting: int,
        idle_seconds: float = math.inf,
    ) -> None:
        self._work = work
        self._count = count
        self._seconds = seconds
        self._over_time = over_time
        self._idle_seconds = None if idle_seconds == math.inf else idle_seconds
        self._waiting: FairQueue[Job] = FairQueue(max_waiting)
        self._num_waiting = asyncio.Semaphore(0)
        self._tasks: list[asyncio.Task[None]] = []

    def push(self, job: Job) -> None:
        """Adds a job. If too many wait, one of the caller with the most is refused."""
        refused = self._waiting.push(job.caller, job)
        if refused is None:
            self._num_waiting.release()
        else:
            refused.fail(QueueFullError("too many others wait for the same work"))

    def start(self, *, ahead: bool = False) -> None:
        """Begins to take jobs; `ahead` of the first one, with children that are ready for it."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._serve(ahead), name="lane") for _ in range(self._count)
            ]

    async def close(self) -> None:
        """Ends all children; jobs that have not ended fail with UnavailableError."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._waiting:
            self._waiting.pop().fail(UnavailableError("the service ends"))

    async def _serve(self, ahead: bool) -> None:
        """The life of one child after the other."""
        child: ChildProcess | None = None
        try:
            if ahead:
                with suppress(FolovError):  # the first job tries again, and tells
                    child = await ChildProcess.start(self._work)
            while True:
                try:
                    # Without a child there is nothing to end.
                    async with asyncio.timeout(self._idle_seconds if child else None):
                        await self._num_waiting.acquire()
                except TimeoutError:
                    await _end(child)
                    child = None
                    continue
                job = self._waiting.pop()
                if not job.result.done():  # else its caller has left
                    child = await self._do(job, child)
        finally:
            await _end(child)

    async def _do(self, job: Job, child: ChildProcess | None) -> ChildProcess | None:
        """Does a job; returns the child for the next one."""
        try:
            child = child or await ChildProcess.start(self._work)
            result = await child.run(job.payload(), self._seconds, self._wall_seconds)
        except OverTimeError as error:
            self._over_time(job, error)
        except asyncio.CancelledError:
            job.fail(UnavailableError("the service ends"))
            await _end(child)
            raise
        except Exception as error:  # even if it is a bug in the work, the lane goes on
            job.fail(error)
        else:
            if not job.result.done():
                job.result.set_result(result)
        if child is not None and not child.alive:
            await child.end()
            return None
        return child

    @property
    def _wall_seconds(self) -> float:
        return _WALL_SECONDS + 10 * self._seconds


async def _end(child: ChildProcess | None) -> None:
    if child is not None:
        await child.end()
