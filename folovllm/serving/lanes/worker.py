"""Worker: a process that does one job, says what came of it, and ends.

It is forked from a process that has prepared the work. The kernel ends it at its limits.
"""

import os
import resource
import signal
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from folovllm.serving.lanes.frames import Outcome, reply
from folovllm.serving.lanes.work import Job

_STATUS = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class Order:
    """A job, as ORDER describes it."""

    number: int
    seconds: float
    niceness: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Worker:
    """What all workers have in common."""

    job: Job
    memory_bytes: int
    stack_bytes: int

    def work(self, order: Order, report: int) -> NoReturn:
        """Does the job, writes a REPLY to the file descriptor `report`, and ends."""
        _yield_to_others(order.niceness)

        def run() -> None:
            answer = memoryview(self._do(order))
            while answer:
                answer = answer[os.write(report, answer) :]
            os._exit(0)

        threading.stack_size(self.stack_bytes)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        os._exit(1)

    def _do(self, order: Order) -> bytes:
        """On a thread of its own, whose stack is there already when memory is limited."""
        signal.setitimer(signal.ITIMER_PROF, order.seconds)  # SIGPROF ends the process
        size, _ = memory_used()
        if size:
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            limit = size + self.memory_bytes
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            return reply(order.number, Outcome.DONE, self.job(order.payload))
        except MemoryError:
            os.abort()  # as a library does that gets none
        except BaseException as error:  # a library's own may be derived from it
            text = "".join(traceback.format_exception(error))
            return reply(order.number, Outcome.FAILED, text.encode(errors="replace"))


def memory_used() -> tuple[int, int]:
    """Bytes of addresses, and of memory beside files; zeros where the system does not say."""
    try:
        size, resident, files = map(int, _STATUS.read_text().split()[:3])
    except OSError:
        return 0, 0
    page = resource.getpagesize()
    return size * page, (resident - files) * page


def _yield_to_others(niceness: int) -> None:
    """Runs behind the service, and is the first to go when the machine has no memory left."""
    os.nice(niceness)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # Some libraries write of every fault to the standard error output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
