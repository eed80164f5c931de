"""DaemonThreads: a few threads for work that may never end, none of which delays a process's end.

The standard library's pools wait for their threads when the process ends; here nobody does.
"""

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Future[Any], Callable[[], Any]]


class DaemonThreads:
    """Runs one piece of work at a time on each of `count` threads, in the order of their coming.

    The threads start with the first work, and end when nobody holds this any more.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = False

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises.

        Cancelling this drops the work where it still waits; once begun it goes on to its end.
        """
        self._start()
        future: Future[T] = Future()
        self._jobs.put((future, work))
        return await asyncio.wrap_future(future)

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        weakref.finalize(self, _stop, self._jobs, self._count)
        for number in range(self._count):
            threading.Thread(
                target=_work_off, args=(self._jobs,), name=f"{self._name}-{number}", daemon=True
            ).start()


def _work_off(jobs: SimpleQueue[_Job | None]) -> None:
    """One thread's life."""
    while (job := jobs.get()) is not None:
        future, work = job
        if future.set_running_or_notify_cancel():
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
        # While the thread waits for more, it must keep nothing of what is done alive.
        del job, future, work


def _stop(jobs: SimpleQueue[_Job | None], count: int) -> None:
    for _ in range(count):
        jobs.put(None)
