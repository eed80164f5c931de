"""Lanes: jobs of unknown cost, done by several children, short ones apart from long ones.

Every job begins on the short lane, where it has a fifth of a second of processor time. One that
needs more is ended there, and begins again on a long lane with the whole limit. So a short job
never waits for a long one, and it need not be known in advance which it is.

Only a job's own processor time counts: neither its wait for a turn nor what else the machine does.
"""

import asyncio
from collections.abc import Callable, Hashable

from folovllm.serving.lanes.child_process import OverTimeError
from folovllm.serving.lanes.lane import Job, Lane
from folovllm.serving.lanes.work import Work

MAX_SECONDS = 2.0
"""Of a job, unless its service says otherwise."""
SHORT_SECONDS = 0.2
"""Of a job on the short lane."""
# Jobs that wait on a lane. What they hold is the callers' requests, which are there anyway.
_MAX_WAITING = 256
# Without a job, the child of a long lane ends, which gives its memory back.
_IDLE_SECONDS = 30.0


class Lanes:
    """One short lane, and `num_long` others. Belongs to one event loop; nothing starts before use.

    `max_seconds` is the limit of a job's processor time.
    """

    def __init__(
        self,
        work: Work,
        max_seconds: float = MAX_SECONDS,
        num_long: int = 2,
        *,
        max_waiting: int = _MAX_WAITING,
        idle_seconds: float = _IDLE_SECONDS,
    ) -> None:
        short = max_seconds > SHORT_SECONDS
        self._long = Lane(
            work,
            num_long,
            max_seconds,
            Job.fail,
            max_waiting=max_waiting,
            idle_seconds=idle_seconds,
        )
        self._short = Lane(
            work,
            1,
            min(SHORT_SECONDS, max_seconds),
            self._begin_again if short else Job.fail,
            max_waiting=max_waiting,
        )

    async def run(self, payload: Callable[[], bytes], caller: Hashable = None) -> bytes:
        """The result of a job. Cancelling this drops a job that waits; one that has begun goes on.

        `payload` makes what the child gets, when it is the job's turn. Callers take turns. Raises
        OverTimeError, OverMemoryError, QueueFullError, UnavailableError, and RuntimeError if the
        work fails.
        """
        self._short.start()
        job = Job(payload, caller, asyncio.get_running_loop().create_future())
        self._short.push(job)
        return await job.result

    def warm_up(self) -> None:
        """Starts the short lane's child, which the first job would otherwise wait for."""
        self._short.start(ahead=True)

    async def close(self) -> None:
        """Ends all children; jobs that have not ended fail with UnavailableError."""
        await self._short.close()
        await self._long.close()

    def _begin_again(self, job: Job, _: OverTimeError) -> None:
        self._long.start()
        self._long.push(job)
