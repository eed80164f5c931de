"""Jobs in processes of their own: their limits, their turns, and what happens when one ends."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import psutil
import pytest

from folovllm.errors import QueueFullError, UnavailableError
from folovllm.serving.lanes.errors import OverMemoryError, OverTimeError, WorkerEndedError
from folovllm.serving.lanes.frames import ORDER, REPLY, Outcome, reply
from folovllm.serving.lanes.lanes import Lanes
from folovllm.serving.lanes.limits import JobLimits
from folovllm.serving.lanes.work import Work

WORK = Work("jobs", "support.fakes.lane_work:prepare", b"so:")
SHORT = JobLimits(0.05, 0.05, memory_bytes=256 * 2**20)
Make = Callable[..., Lanes]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes lanes that are closed at the end."""
    async with AsyncExitStack() as stack:

        def lanes(limits: JobLimits = SHORT, work: Work = WORK) -> Lanes:
            lanes = Lanes(work, limits)
            stack.callback(lanes.close)
            return lanes

        yield lanes


def ask(lanes: Lanes, words: str, caller: str = "") -> "asyncio.Task[bytes]":
    return asyncio.ensure_future(lanes.run(words.encode, len(words), caller))


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def workers(lanes: Lanes) -> list[psutil.Process]:
    pid = lanes.server.pid
    return [] if pid is None else psutil.Process(pid).children()


async def test_a_job_over_its_limits_is_ended_and_others_go_on(make: Make) -> None:
    lanes = make()
    lanes.warm_up()
    large = "x" * 3_000_000
    assert await ask(lanes, f"echo {large}") == f"so: {large}".encode()
    assert await ask(lanes, "print") == b"printed"
    server = lanes.server.pid
    for kind in ("willing", "deaf"):
        with pytest.raises(OverTimeError, match=r"it takes more than 0.05 s of processor time"):
            await ask(lanes, f"spin {kind}")
    with pytest.raises(OverMemoryError, match="256 MiB"):
        await ask(lanes, f"fill {2**30}")
    with pytest.raises(RuntimeError, match="ValueError: nonsense"):
        await ask(lanes, "nonsense")
    with pytest.raises(WorkerEndedError, match="ended at its work: 3"):
        await ask(lanes, "exit 3")
    pids = {await ask(lanes, "pid") for _ in range(3)}
    assert len(pids) == 3, "each job has a process of its own"
    assert lanes.server.pid == server, "none of them cost more than itself"
    await until(lambda: not workers(lanes))


async def test_who_needs_longer_does_not_hold_up_the_short(make: Make) -> None:
    lanes = make(JobLimits(0.02, 60.0, num_long_lanes=1))
    long, another = (ask(lanes, "spin willing") for _ in range(2))
    await until(lambda: lanes.long.num_waiting)
    assert await ask(lanes, "echo hello") == b"so: hello"
    assert not long.done() and not another.done()
    running = workers(lanes)
    lanes.close()
    for task in (long, another):
        with pytest.raises(UnavailableError, match="the service ends"):
            await task
    assert running and not psutil.wait_procs(running, timeout=60)[1]


async def test_callers_take_turns_and_the_greediest_is_refused(make: Make) -> None:
    lanes = make(JobLimits(max_waiting=3))
    order: list[str] = []

    def mark(caller: str) -> "asyncio.Task[bytes]":
        def payload() -> bytes:
            order.append(caller)
            return b"echo"

        return asyncio.ensure_future(lanes.run(payload, 4, caller, seconds=1.0))

    jobs: list[asyncio.Task[Any]] = [mark(caller) for caller in ("a", "a", "a", "a", "b", "c")]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert order[0] == "a" and sorted(order[1:]) == ["a", "b", "c"]
    refused = [isinstance(result, QueueFullError) for result in results]
    assert refused == [False, False, True, True, False, False]


async def test_a_caller_that_has_left_costs_no_job_and_what_runs_for_it_ends(make: Make) -> None:
    lanes = make(JobLimits(60.0, 60.0))
    running, left, stays = (ask(lanes, words) for words in ("spin deaf", "exit 3", "echo hello"))
    await until(lambda: workers(lanes))
    left.cancel()
    running.cancel()
    assert await stays == b"so: hello"
    await until(lambda: not workers(lanes))


def test_all_processes_end_with_the_service_whatever_happened_to_it() -> None:
    ours, theirs = socket.socketpair()
    program = ("-m", "folovllm.serving.lanes.fork_server", str(theirs.fileno()), WORK.prepare)
    with subprocess.Popen(
        [sys.executable, *program, str(2**30), "0"],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        theirs.close()
        with ours:
            ours.sendall(ORDER.pack(0, 0.0, 0, 1) + b":")
            assert ours.recv(REPLY.size) == reply(0, Outcome.DONE)
            ours.sendall(ORDER.pack(1, 60.0, 0, 9) + b"spin deaf" + ORDER.pack(2, 60.0, 0, 6))
            ours.sendall(b"print")
            while not (children := psutil.Process(process.pid).children()):
                os.sched_yield()
            ours.shutdown(socket.SHUT_WR)
            assert ours.recv(1) == b"", "it closes its end"
        assert process.wait() == 0
        assert not psutil.wait_procs(children, timeout=60)[1]


async def test_what_cannot_begin_is_told_to_its_callers(make: Make) -> None:
    lanes = make(work=Work("jobs", "support.fakes.lane_work:missing", b""))
    lanes.warm_up()
    with pytest.raises(UnavailableError, match="the process for jobs is lost: it has ended"):
        await ask(lanes, "pid")
