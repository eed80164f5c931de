"""Arrivals: a burst of calls begins after all of it was handed over, a few calls at a time."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from folovllm.serving.calls import arrivals
from folovllm.serving.calls.arrivals import Arrivals


class Burst:
    """Calls on a loop whose clock moves only when told, so that every turn is a test's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patch: pytest.MonkeyPatch) -> None:
        self.begun: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._arrivals = Arrivals()
        self._now = loop.time()
        patch.setattr(loop, "time", lambda: self._now)

    def arrive(self, count: int) -> None:
        self.tasks += [
            asyncio.create_task(self._call(number))
            for number in range(len(self.tasks), len(self.tasks) + count)
        ]

    async def _call(self, number: int) -> None:
        await self._arrivals.turn()
        self.begun.append(number)

    async def rounds(self, number: int = 3) -> None:
        for _ in range(number):
            await asyncio.sleep(0)

    async def turn(self) -> int:
        """How many calls begin with the next turn."""
        before = len(self.begun)
        self._now += arrivals._INTERVAL
        await self.rounds()
        return len(self.begun) - before


@pytest.fixture
async def burst(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Burst]:
    burst = Burst(asyncio.get_running_loop(), monkeypatch)
    yield burst
    for task in burst.tasks:
        task.cancel()


async def test_a_few_calls_begin_at_once(burst: Burst) -> None:
    burst.arrive(arrivals._BURST)
    await burst.rounds()
    assert burst.begun == [*range(arrivals._BURST)]


async def test_a_burst_begins_in_order_a_few_at_a_time(burst: Burst) -> None:
    burst.arrive(100)
    await burst.rounds()
    assert await burst.turn() == arrivals._BUSY  # others came since they began to wait
    while len(burst.begun) < 100:
        assert 0 < await burst.turn() <= arrivals._QUIET
    assert burst.begun == [*range(100)]


async def test_hardly_any_call_begins_while_more_are_handed_over(burst: Burst) -> None:
    burst.arrive(100)
    await burst.rounds()
    for _ in range(10):
        burst.arrive(1)
        await burst.rounds(1)
        assert await burst.turn() == arrivals._BUSY
    assert await burst.turn() == arrivals._QUIET


async def test_one_that_comes_late_overtakes_none_that_waits(burst: Burst) -> None:
    burst.arrive(20)
    await burst.rounds()
    burst.arrive(1)
    while len(burst.begun) < 21:
        await burst.turn()
    assert burst.begun == [*range(21)]


async def test_a_call_that_is_cancelled_takes_no_turn(burst: Burst) -> None:
    burst.arrive(arrivals._BURST + 30)
    await burst.rounds()
    for task in burst.tasks[arrivals._BURST : -1]:
        task.cancel()
    await burst.turn()
    assert burst.begun[-1] == len(burst.tasks) - 1


async def test_calls_that_come_one_after_the_other_never_wait(burst: Burst) -> None:
    for number in range(100):
        burst.arrive(1)
        await burst.rounds()
        assert len(burst.begun) == number + 1
        await burst.turn()
