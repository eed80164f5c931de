"""What differs between calls from asyncio and from threads; sync_calls has the same names."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import grpc

from folovllm.serving.channel import open_channel
from folovllm_client.api.calls.running_calls import RunningCalls
from folovllm_client.api.calls.servers import Server

__all__ = [
    "AsyncServer",
    "DuplexCall",
    "Pieces",
    "StreamMethod",
    "UnaryMethod",
    "call_once",
    "iterate",
    "means_closed",
    "open_channel",
    "pause",
    "run_all",
]

_Output = TypeVar("_Output")
Pieces = Iterable[Iterable[int]] | AsyncIterable[Iterable[int]]
AsyncServer: TypeAlias = "Server[grpc.aio.Channel]"
UnaryMethod: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[Any, _Output]"
StreamMethod: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[Any, Any]"


class DuplexCall:
    """A call with a stream in each direction, of which one message is sent and read at a time."""

    def __init__(
        self, method: "grpc.aio.StreamStreamMultiCallable[Any, Any]", timeout: float | None
    ) -> None:
        self._call = method(timeout=timeout)

    async def send(self, request: object) -> None:
        """Sends a message; a call that has ended takes none, and reading says why it ended."""
        if not self._call.done():
            await self._call.write(request)

    async def finish(self) -> None:
        """Says that nothing more is sent."""
        await self._call.done_writing()

    async def read(self) -> object:
        """The next message, or at the end of the call something else. Raises grpc.RpcError."""
        return await self._call.read()

    def cancel(self) -> None:
        """Ends the call if it still runs."""
        self._call.cancel()


async def call_once(
    method: "UnaryMethod[_Output]", request: object, deadline: float | None, calls: RunningCalls
) -> _Output:
    """The answer of a call that has one."""
    call = method(request, timeout=deadline)
    with calls.running(call):
        return await call


async def pause(seconds: float, calls: RunningCalls) -> None:
    """Returns after so many seconds; ending `calls` ends it as it does a call."""
    sleep = asyncio.ensure_future(asyncio.sleep(seconds))
    with calls.running(sleep):
        await sleep


async def run_all(
    jobs: Sequence[Callable[[], Awaitable[_Output]]], limit: int, calls: RunningCalls
) -> list[_Output]:
    """The results of all jobs in their order, at most `limit` of them at a time.

    The first that fails ends the others, and so does cancelling the caller; all are over then.
    """
    places = asyncio.Semaphore(limit)
    failures: list[Exception] = []

    async def run(job: Callable[[], Awaitable[_Output]]) -> _Output:
        async with places:
            if failures:
                raise asyncio.CancelledError
            try:
                return await job()
            except Exception as error:
                failures.append(error)
                raise

    tasks = [asyncio.create_task(run(job)) for job in jobs]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if failures:
            raise failures[0]
        return [task.result() for task in tasks]
    finally:
        calls.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def means_closed(error: BaseException) -> bool:
    """Whether a call failed in a way that closing the client explains."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or not task.cancelling()
    return isinstance(error, grpc.aio.UsageError)


async def iterate(pieces: Pieces) -> AsyncGenerator[Iterable[int], None]:
    """The pieces of either kind of iterable."""
    if isinstance(pieces, AsyncIterable):
        async for ids in pieces:
            yield ids
    else:
        for ids in pieces:
            yield ids
