"""What becomes of an EngineSession, and of a background task, when something is wrong in it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from folovllm.errors import UnavailableError
from folovllm.liveness import LivenessConfig
from folovllm.serving.background_tasks import first, start_background
from folovllm.v1 import engine_service_pb2
from support.builders.engine_pools import request
from support.fakes.stream_home import make_part
from tokenizer_service.engines.session import EngineSession

Events = engine_service_pb2.SessionEvents


class BrokenCall:
    """A call of Session that fails where it is told to, with an error that gRPC does not have."""

    def __init__(self, broken: str) -> None:
        self._broken = broken
        self._breaks = asyncio.Event()
        self.cancelled = asyncio.Event()

    def Session(self) -> "BrokenCall":
        return self

    async def __aiter__(self) -> AsyncIterator[Events]:
        yield Events()
        await self._breaks.wait()
        if self._broken == "reader":
            raise KeyError("a bug")
        await self.cancelled.wait()

    async def write(self, command: Any) -> None:
        if self._broken == "writer":
            raise KeyError("a bug")
        self._breaks.set()

    def cancel(self) -> None:
        self.cancelled.set()


@pytest.mark.parametrize(
    ("broken", "reason", "task"),
    [
        ("reader", "its session ended", "read there:1"),
        ("writer", "its session failed", "write there:1"),
    ],
)
async def test_a_bug_in_one_half_of_a_session_ends_the_whole(
    broken: str, reason: str, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    call: Any = BrokenCall(broken)
    session = await EngineSession.open(call, "there:1", LivenessConfig(), on_change=lambda: None)
    part = make_part()
    session.generate(part, request(), "r")
    with pytest.raises(UnavailableError, match=f"engine there:1: {reason}"):
        async with asyncio.timeout(20):
            await anext(part.stream)
    assert not session.is_open
    assert call.cancelled.is_set(), "the engine would go on"
    assert [record.getMessage() for record in caplog.records] == [f"background task failed: {task}"]
    await session.close()


async def test_the_end_of_a_task_is_told_once_and_an_error_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends: list[BaseException | None] = []

    async def end(error: BaseException | None) -> None:
        if error is not None:
            raise error

    class Panic(BaseException):
        """As of Rust code."""

    for error in (None, ValueError("bug"), Panic("bug")):
        task = start_background(end(error), "work", ends.append)
        await asyncio.wait([task])
    forever = start_background(first(asyncio.Event().wait()), "for ever", ends.append)
    await asyncio.sleep(0)
    forever.cancel()
    await asyncio.wait([forever])
    assert [type(each) for each in ends] == [type(None), ValueError, Panic, asyncio.CancelledError]
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


async def test_the_first_end_ends_the_others_and_is_raised() -> None:
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def failing() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await first(other(), failing())
    assert ended.is_set()
