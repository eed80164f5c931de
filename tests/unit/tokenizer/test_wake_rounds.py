"""WakeRounds: readers are woken at once, but a busy service lets outputs accumulate."""

import asyncio
from collections.abc import Callable

import pytest

from folovllm.v1 import types_pb2
from support.fakes.stream_home import make_part
from tokenizer_service.engines.stream import EngineStream
from tokenizer_service.engines.wake_rounds import WakeRounds


def make_stream(name: str) -> EngineStream:
    return make_part(name).stream


def put(rounds: WakeRounds, stream: EngineStream, token_id: int) -> None:
    stream.put(types_pb2.CompletionOutput(request_id=stream.name, token_ids=[token_id]))
    rounds.add(stream)
    rounds.run()


async def test_a_service_that_keeps_up_wakes_readers_for_each_output() -> None:
    rounds, stream = WakeRounds(), make_stream("a")
    for token_id in range(5):
        reading = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        put(rounds, stream, token_id)
        assert list((await reading).token_ids) == [token_id]


class Clock:
    """The event loop's time and timers as WakeRounds sees them, at the test's own pace."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self.call_soon = asyncio.get_running_loop().call_soon

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self._timers.append((self.now + delay, callback))

    def pass_time(self, seconds: float) -> None:
        """Lets time pass and calls what is due."""
        self.now += seconds
        due = [callback for when, callback in self._timers if when <= self.now]
        self._timers = [timer for timer in self._timers if timer[0] > self.now]
        for callback in due:
            callback()


async def test_outputs_that_arrive_while_readers_are_busy_are_merged_and_never_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds, stream, clock = WakeRounds(), make_stream("a"), Clock()
    monkeypatch.setattr(rounds, "_loop", clock)
    pieces: list[list[int]] = []

    async def read() -> None:
        while sum(map(len, pieces)) < 50:
            pieces.append(list((await anext(stream)).token_ids))
            clock.now += 0.01  # as if it had worked that long

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    for token_id in range(50):
        put(rounds, stream, token_id)
        await asyncio.sleep(0)
        clock.pass_time(0.002)
    while not reading.done():
        await asyncio.sleep(0)
        clock.pass_time(0.002)
    assert [i for piece in pieces for i in piece] == list(range(50))
    assert len(pieces) < 25


async def test_each_stream_has_its_turn() -> None:
    rounds = WakeRounds()
    streams = [make_stream(str(i)) for i in range(3)]
    reading = [asyncio.create_task(anext(stream)) for stream in streams]
    await asyncio.sleep(0)
    for i, stream in enumerate(streams):
        put(rounds, stream, i)
    async with asyncio.timeout(10):
        assert [list((await each).token_ids) for each in reading] == [[0], [1], [2]]
