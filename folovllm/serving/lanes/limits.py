"""A child's own limits: on the processor time of one job and on the memory of all.

A job over its time is ended from within, by a signal whose handler raises, so that the child lives
on. Code that does not heed that, such as a long call into a library, ends with the process: another
timer's signal has no handler.
"""

import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# Times the limit of a job, after which a child that does not heed it is ended.
_LAST_GRACE = 2
ENDED_BY = signal.SIGVTALRM
"""The signal that ends it."""

T = TypeVar("T")


class OverTime(BaseException):
    """The job is over its processor time."""


class TimeLimit:
    """The limit of one job at a time. Belongs to the main thread, which gets the signals."""

    def __init__(self) -> None:
        self._armed = False
        signal.signal(signal.SIGPROF, self._expire)
        signal.signal(ENDED_BY, signal.SIG_DFL)

    def run(self, work: Callable[[], T], seconds: float) -> T:
        """What `work` returns or raises. Raises OverTime if it takes more processor time."""
        try:
            self._armed = True
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds * _LAST_GRACE)
            return work()
        finally:
            # First: a signal that has come by now is the job's, one that comes later is not heeded.
            self._armed = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def _expire(self, *_: object) -> None:
        if self._armed:
            raise OverTime


def limit_memory(num_bytes: int) -> None:
    """Lets the process map so many bytes more than it has; beyond them, allocations fail.

    Only on Linux: elsewhere the system does not tell how much it has, or does not heed the limit.
    """
    if sys.platform != "linux":
        return
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = num_pages * resource.getpagesize() + num_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
