"""Turns: one piece of long work in a round of the event loop, whoever's it is."""

import asyncio
from collections.abc import Generator

import pytest

from folovllm.serving.turns import Turns


class Rounds:
    """Numbers the rounds of the event loop."""

    def __init__(self) -> None:
        self.number = 0
        self._count()

    def _count(self) -> None:
        self.number += 1
        self._handle = asyncio.get_running_loop().call_soon(self._count)

    def stop(self) -> None:
        self._handle.cancel()


def steps(number: int, done: list[int], rounds: Rounds | None = None) -> Generator[None, None, str]:
    for step in range(number):
        if step:
            yield
        done.append(rounds.number if rounds else step)
    return "done"


async def test_only_one_piece_runs_in_a_round() -> None:
    turns, rounds = Turns(), Rounds()
    worked: list[int] = []

    async def work() -> None:
        for _ in range(5):
            await turns.take()
            worked.append(rounds.number)

    await asyncio.gather(*[work() for _ in range(4)])
    rounds.stop()
    assert len(worked) == 20 == len(set(worked))


async def test_whoever_asks_first_works_first() -> None:
    turns = Turns()
    order: list[int] = []

    async def work(number: int) -> None:
        await turns.take()
        order.append(number)

    await asyncio.gather(*[work(number) for number in range(6)])
    assert order == list(range(6))


async def test_steps_pause_where_they_yield() -> None:
    turns, rounds = Turns(), Rounds()
    done: list[int] = []
    assert await turns.run(steps(4, done, rounds)) == "done"
    rounds.stop()
    assert len(done) == 4 == len(set(done))


async def test_short_work_waits_for_no_one() -> None:
    turns = Turns()
    waiting = asyncio.ensure_future(turns.take())
    await asyncio.sleep(0)
    done: list[int] = []
    short = turns.run(steps(1, done))
    with pytest.raises(StopIteration, match="done"):
        short.send(None)  # to its end without a pause
    assert done == [0]
    await waiting


async def test_who_leaves_while_it_waits_holds_up_no_one() -> None:
    turns = Turns()
    tasks = [asyncio.ensure_future(turns.take()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks[:2]:
        task.cancel()
    await tasks[2]
    await turns.take()


async def test_an_error_of_a_step_is_the_callers() -> None:
    def failing() -> Generator[None, None, None]:
        yield
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await Turns().run(failing())
