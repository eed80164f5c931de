"""Jobs in spawned processes: their limits, their turns, and what happens when a process ends."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from folovllm.errors import QueueFullError, UnavailableError
from folovllm.serving.lanes.child_process import OverMemoryError, OverTimeError
from folovllm.serving.lanes.frames import REPLY, SETUP, Outcome
from folovllm.serving.lanes.lane import Job, Lane
from folovllm.serving.lanes.lanes import Lanes
from folovllm.serving.lanes.work import Work

WORK = Work("support.fakes.lane_work:prepare", b"so:", 256 * 2**20)
Make = Callable[..., Lanes]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes lanes that are closed at the end."""
    async with AsyncExitStack() as stack:

        def lanes(max_seconds: float = 0.05, work: Work = WORK, **options: float) -> Lanes:
            lanes = Lanes(work, max_seconds, **options)  # type: ignore[arg-type]
            stack.push_async_callback(lanes.close)
            return lanes

        yield lanes


def ask(lanes: Lanes, words: str, caller: str = "") -> "asyncio.Task[bytes]":
    return asyncio.ensure_future(lanes.run(words.encode, caller))


async def test_a_child_does_one_job_after_the_other(make: Make) -> None:
    lanes = make()
    large = "x" * 300_000
    assert await ask(lanes, f"echo {large}") == f"so: {large}".encode()
    assert await ask(lanes, "print") == b"printed"
    pids = {await ask(lanes, "pid") for _ in range(3)}
    assert len(pids) == 1 and pids != {str(os.getpid()).encode()}


async def test_a_job_over_its_limits_is_ended_and_others_go_on(make: Make) -> None:
    lanes = make()
    lanes.warm_up()
    first = await ask(lanes, "pid")
    with pytest.raises(OverTimeError, match=r"it takes more than 0.05 s of processor time"):
        await ask(lanes, "spin willing")
    with pytest.raises(OverMemoryError):
        await ask(lanes, f"fill {2**30}")
    with pytest.raises(RuntimeError, match="ValueError: nonsense"):
        await ask(lanes, "nonsense")
    assert await ask(lanes, "pid") == first, "none of them cost the child"
    with pytest.raises(OverTimeError):
        await ask(lanes, "spin deaf")
    with pytest.raises(UnavailableError, match="ended at its work: 3"):
        await ask(lanes, "exit 3")
    assert await ask(lanes, "pid") != first


async def test_who_needs_longer_does_not_hold_up_the_short(make: Make) -> None:
    lanes = make(60.0, num_long=1)
    long = ask(lanes, "spin willing")
    another = ask(lanes, "spin willing")
    pids = {await ask(lanes, "pid") for _ in range(3)}
    assert len(pids) == 1 and not long.done() and not another.done()
    await lanes.close()
    for task in (long, another):
        with pytest.raises(UnavailableError, match="the service ends"):
            await task


async def test_callers_take_turns_and_the_greediest_is_refused(make: Make) -> None:
    lanes = make(max_waiting=4)
    order: list[str] = []

    def mark(caller: str) -> "asyncio.Task[bytes]":
        def payload() -> bytes:
            order.append(caller)
            return b"echo"

        return asyncio.ensure_future(lanes.run(payload, caller))

    jobs = [mark(caller) for caller in ("a", "a", "a", "a", "a", "b", "c")]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert order == ["a", "b", "c", "a"]
    assert [isinstance(result, QueueFullError) for result in results] == [False] * 2 + [
        True
    ] * 3 + [False] * 2


async def test_a_caller_that_has_left_costs_no_job(make: Make) -> None:
    lanes = make()
    left, stays = ask(lanes, "exit 3"), ask(lanes, "echo hello")
    await asyncio.sleep(0)
    left.cancel()
    assert await stays == b"so: hello"


async def test_a_child_ends_with_its_input_whatever_happened_to_the_service() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "folovllm.serving.lanes.job_server", "0", WORK.prepare),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said, _ = await process.communicate(SETUP.pack(2**30, 1) + b":")
    assert (process.returncode, said) == (0, REPLY.pack(Outcome.DONE, 0))


async def test_a_child_without_a_job_ends_and_the_next_job_gets_another() -> None:
    lane = Lane(WORK, 1, 1.0, Job.fail, max_waiting=8, idle_seconds=0.0)
    lane.start()
    pids = set()
    for _ in range(2):
        job = Job(lambda: b"pid", "", asyncio.get_running_loop().create_future())
        lane.push(job)
        pids.add(await job.result)
    await lane.close()
    assert len(pids) == 2


async def test_what_cannot_begin_is_told_to_its_callers(make: Make) -> None:
    lanes = make(work=Work("support.fakes.lane_work:missing", b"", 2**20))
    lanes.warm_up()
    for _ in range(2):
        with pytest.raises(UnavailableError, match="does not begin"):
            await ask(lanes, "pid")
