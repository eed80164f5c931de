"""DaemonThreadPool: a few threads for work that may never end.

The standard library's pools make a process wait for their threads when it ends; these do not.
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


class DaemonThreadPool:
    """Runs work on `count` threads, in the order in which it is submitted.

    The threads start with the first work, and end when the pool is no longer referenced.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = False

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises.

        Cancelling this drops work that still waits; once begun, it runs to its end.
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
                target=_run_jobs, args=(self._jobs,), name=f"{self._name}-{number}", daemon=True
            ).start()


def _run_jobs(jobs: SimpleQueue[_Job | None]) -> None:
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
        # While the thread waits for more, it must not keep finished work alive.
        del job, future, work


def _stop(jobs: SimpleQueue[_Job | None], count: int) -> None:
    for _ in range(count):
        jobs.put(None)
