"""Conversions off the event loop: what runs where, and steps that let others in."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tokenizer_service.text.offload import PIECE_SIZE, Offload, part_size


def here() -> str:
    return threading.current_thread().name


async def test_large_conversions_have_threads_of_their_own() -> None:
    offload = Offload()
    assert await offload.run(10, here) == here()
    assert (await offload.run(PIECE_SIZE, here)).startswith("convert-") is True
    assert "large" not in await offload.run(PIECE_SIZE, here)
    assert "large" in await offload.run(PIECE_SIZE + 1, here)


async def test_steps_are_taken_together_while_they_are_small() -> None:
    places: list[str] = []

    def steps(*sizes: int) -> Iterator[int]:
        for size in sizes:
            yield size
            places.append(here())

    offload = Offload()
    await offload.run_steps(steps())
    await offload.run_steps(steps(1000, 1000))
    assert places == [here()] * 2, "no thread is asked for little"
    places.clear()
    await offload.run_steps(steps(1000, 1000, 1000, PIECE_SIZE, PIECE_SIZE + 1, 5))
    assert places[:2] == [here()] * 2
    assert ["large" in place for place in places] == [False] * 4 + [True, False]
    assert here() not in places[2:]


async def test_what_a_step_raises_comes_to_the_caller() -> None:
    def steps(*sizes: int) -> Iterator[int]:
        yield from sizes
        raise ZeroDivisionError

    for sizes in ((), (1,), (PIECE_SIZE, PIECE_SIZE)):
        with pytest.raises(ZeroDivisionError):
            await Offload().run_steps(steps(*sizes))


async def test_a_caller_that_leaves_ends_its_conversion_after_a_piece() -> None:
    begun, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    taken: list[int] = []

    def steps() -> Iterator[int]:
        for number in range(3):
            yield PIECE_SIZE
            taken.append(number)
            loop.call_soon_threadsafe(begun.set)
            go.wait()

    offload = Offload()
    task = asyncio.create_task(offload.run_steps(steps()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    # All threads have been through the queue once: nothing of it is left.
    await asyncio.gather(*(offload.run(PIECE_SIZE, here) for _ in range(8)))
    assert taken == [0]


def test_many_short_texts_cost_more_than_one_of_their_length() -> None:
    assert sum(part_size("x") for _ in range(100)) > part_size("x" * 100)
