"""The kernels' threads: they share small jobs without losing one, sleep when idle, and end."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine_service.kernels.cpu.library import Context
from engine_service.kernels.cpu.structures import LinearCall
from support.builders.cpu_kernels import BFLOAT16, EPS, PackedLinear, context, library

TIMEOUT_S = 30
TASKS = Path("/proc/self/task")

needs_proc = pytest.mark.skipif(not TASKS.is_dir(), reason="threads are counted in /proc")


def until(condition: Callable[[], bool]) -> None:
    """Returns when it is true; fails after TIMEOUT_S."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def threads() -> set[str]:
    """Of this process, by their ids."""
    return {path.name for path in TASKS.iterdir()}


def asleep(thread: str) -> bool:
    """Whether a thread waits for something."""
    return (TASKS / thread / "stat").read_text().rpartition(")")[2].split()[0] == "S"


def times_slept(own: set[str]) -> int:
    """How often threads have gone to sleep, all of them together."""
    lines = [line for name in own for line in (TASKS / name / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))


def new_context(num_threads: int) -> tuple[list[Context], set[str]]:
    """A context, in a list that holds it alone, and its own threads."""
    before = threads()
    contexts = [Context(library(), num_threads)]
    own = threads() - before
    assert len(own) == num_threads - 1
    return contexts, own


def drop(contexts: list[Context]) -> None:
    """Lets go of the contexts; a thread does, for a destructor that hangs cannot be interrupted."""
    thread = threading.Thread(target=contexts.clear, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()


class SmallJobs:
    """A product of 13 rows in two blocks and of 160 outputs in two tasks, in one of 7 variants."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(160, 32, generator=generator).to(BFLOAT16)
        self.linear = PackedLinear(weight, weight_format="bf16")
        self.rows = torch.randn(7, 13, 32, generator=generator).to(BFLOAT16)
        self.expected = torch.stack([self.linear(rows) for rows in self.rows])

    def run(self, on: Context, count: int) -> Tensor:
        """The results of so many calls, [count, 13, 160]; every one is a variant further."""
        weight = self.linear.packed["tested"]
        output = torch.empty(count, 13, 160, dtype=BFLOAT16)
        row_bytes, output_bytes = (2 * size for size in (13 * 32, 13 * 160))
        first, target = self.rows.data_ptr(), output.data_ptr()
        for i in range(count):
            rows = first + i % 7 * row_bytes
            call = LinearCall(rows, None, None, None, target + i * output_bytes, 13, 32, EPS)
            on.linear(weight, call)
        return output

    def check(self, found: Tensor) -> None:
        """That they are what one thread computed, bit by bit."""
        assert torch.equal(found, self.expected[torch.arange(len(found)) % 7])


@pytest.mark.parametrize("num_threads", [1, 2, 3, 4])
def test_thousands_of_small_jobs(num_threads: int) -> None:
    jobs = SmallJobs()
    for _ in range(10):
        jobs.check(jobs.run(context(num_threads), 2000))


def test_two_contexts_at_once() -> None:
    jobs = SmallJobs()
    contexts = [Context(library(), 2) for _ in range(2)]
    found: dict[int, Tensor] = {}

    def work(number: int) -> None:
        found[number] = jobs.run(contexts[number], 3000)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result in found.values():
        jobs.check(result)
    assert len(found) == 2


@needs_proc
@pytest.mark.parametrize("num_jobs", [0, 1, 50])
@pytest.mark.parametrize("wait", [False, True], ids=["at once", "when they sleep"])
def test_the_threads_end_with_their_context(num_jobs: int, wait: bool) -> None:
    jobs = SmallJobs()
    contexts, own = new_context(4)
    jobs.check(jobs.run(contexts[0], num_jobs))
    if wait:
        until(lambda: all(map(asleep, own)))
    drop(contexts)
    until(lambda: not own & threads())


@needs_proc
def test_an_idle_context_takes_no_time_and_wakes_up_for_a_job() -> None:
    jobs = SmallJobs()
    contexts, own = new_context(4)
    for _ in range(3):
        until(lambda: all(map(asleep, own)))
        before, slept = time.process_time(), times_slept(own)
        threading.Event().wait(0.15)
        assert time.process_time() - before < 0.05
        assert times_slept(own) == slept
        jobs.check(jobs.run(contexts[0], 20))
        until(lambda: times_slept(own) >= slept + 3)  # noqa: B023 - called at once
    drop(contexts)


# Freed memory is unmapped at once, so that whoever still uses it is caught.
_COMPUTES_AT_EXIT = """
import atexit, threading, time
atexit.register(time.sleep, 0.2)
import torch
from test_thread_context import SmallJobs
from engine_service.kernels.cpu.library import Context, find_or_build
from engine_service.kernels.cpu.structures import LinearCall
context, weight = Context(find_or_build(), 1), SmallJobs().linear
rows, output = (torch.zeros(4000, size, dtype=torch.bfloat16) for size in (32, 160))
call = LinearCall(rows.data_ptr(), None, None, None, output.data_ptr(), 4000, 32, 1e-6)
started = threading.Event()
def work():
    while True:
        context.linear(weight.packed["tested"], call)
        started.set()
threading.Thread(target=work, daemon=True).start()
started.wait()
"""


def test_a_process_ends_well_while_a_daemon_thread_computes() -> None:
    library()
    paths = os.pathsep.join(map(str, (Path(__file__).parent, *sys.path)))
    environment = {**os.environ, "PYTHONPATH": paths, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", _COMPUTES_AT_EXIT],
        capture_output=True,
        env=environment,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
