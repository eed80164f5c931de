"""Lanes: jobs of unknown cost, short ones apart from long ones, each in a process of its own.

Every job begins on the short lane, where it has little processor time. One that needs more is ended
there, and begins again on a long lane with the whole limit. So a short job never waits for a long
one, and it need not be known in advance which it is.

Only a job's own processor time counts: neither its wait for a turn nor what else the machine does.
"""

import asyncio
from collections.abc import Callable, Hashable
from contextlib import suppress

from folovllm.errors import QueueFullError, UnavailableError
from folovllm.serving.lanes.errors import OverTimeError, ServerLostError
from folovllm.serving.lanes.fair_queue import Claim
from folovllm.serving.lanes.lane import Lane
from folovllm.serving.lanes.limits import JobLimits
from folovllm.serving.lanes.server_process import ServerProcess
from folovllm.serving.lanes.work import Work

# Of workers beside the process that forks them: a long job matters less than a new one.
_SHORT_NICENESS, _LONG_NICENESS = 0, 5
# Seconds in which the process has to say that it has killed a worker.
_ANSWER_SECONDS = 5.0


class Lanes:
    """One short lane, some long ones. Belongs to one event loop; nothing starts before use."""

    def __init__(self, work: Work, limits: JobLimits) -> None:
        self._jobs = work.jobs
        self._limits = limits
        self.server = ServerProcess(work, limits)
        self.short = Lane(work.jobs, 1, limits)
        self.long = Lane(work.jobs, limits.num_long_lanes, limits)
        self._idle: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._closed = False

    async def run(
        self,
        payload: Callable[[], bytes],
        num_bytes: int,
        caller: Hashable = None,
        seconds: float = 0.0,
    ) -> bytes:
        """The result of a job. Cancelling this ends it, wherever it is.

        `payload` makes what the worker gets, of about `num_bytes`, when it is the job's turn.
        Callers take turns, who asks for less before who asks for more; `seconds` is an estimate, 0
        if there is none. Raises OverTimeError, OverMemoryError, WorkerEndedError, QueueFullError,
        UnavailableError, and RuntimeError if the work fails.
        """
        limits = self._limits
        short = min(limits.short_seconds, limits.long_seconds)
        try:
            async with self.short.turn(_claim(caller, num_bytes, seconds)):
                return await self._attempt(payload, short, _SHORT_NICENESS)
        except (OverTimeError, TimeoutError) as error:
            if short == limits.long_seconds:
                raise self._too_busy() if isinstance(error, TimeoutError) else error from None
        try:
            async with self.long.turn(_claim(caller, num_bytes, seconds)):
                return await self._attempt(payload, limits.long_seconds, _LONG_NICENESS)
        except TimeoutError:
            raise self._too_busy() from None

    def warm_up(self) -> None:
        """Starts the process, for which the first job would otherwise wait."""

        async def start() -> None:
            with suppress(ServerLostError):  # the first job tries again, and tells
                await self.server.start()

        self._starting = asyncio.create_task(start())

    def close(self) -> None:
        """Ends the processes; jobs that have not ended fail with UnavailableError."""
        self._closed = True
        for handle in (self._idle, self._starting):
            if handle is not None:
                handle.cancel()
        self.server.close()

    async def _attempt(self, payload: Callable[[], bytes], seconds: float, niceness: int) -> bytes:
        """A job's result. Raises TimeoutError if it gets too little of the processor."""
        lost = ServerLostError()
        for _ in range(2):
            if self._closed:
                raise UnavailableError("the service ends")
            try:
                await self.server.start()
                self._put_off_end()
                async with asyncio.timeout(self._limits.wall_seconds):
                    return await self.server.run(payload(), seconds, niceness)
            except ServerLostError as error:
                lost = error  # whoever's fault it was, others may be at work there
            except TimeoutError:
                self._expect_answer()
                raise
        if self._closed:
            raise UnavailableError("the service ends")
        raise UnavailableError(f"the process for {self._jobs} is lost: {lost}")

    def _too_busy(self) -> QueueFullError:
        return QueueFullError(
            f"{self._jobs} get too little of the processor", retry_after=self._limits.wall_seconds
        )

    def _expect_answer(self) -> None:
        """Closes a process that hangs: it has to say that it has killed a worker."""
        heard = self.server.num_replies

        def close_if_silent() -> None:
            if self.server.num_replies == heard:
                self.server.close()

        asyncio.get_running_loop().call_later(_ANSWER_SECONDS, close_if_silent)

    def _put_off_end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._limits.idle_seconds is not None:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._limits.idle_seconds, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self.short.num_running or self.long.num_running:
            self._put_off_end()
        else:
            self.server.close()


def _claim(caller: Hashable, num_bytes: int, seconds: float) -> Claim[asyncio.Future[None]]:
    return Claim(asyncio.get_running_loop().create_future(), caller, num_bytes, seconds)
