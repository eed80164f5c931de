"""What differs between calls from asyncio and from threads; sync_calls has the same names."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any, TypeAlias, TypeVar

import grpc

from folovllm.serving.channel import open_channel

__all__ = ["DuplexCall", "Pieces", "StreamMethod", "UnaryMethod", "iterate", "open_channel"]

_Output = TypeVar("_Output")
Pieces = Iterable[Iterable[int]] | AsyncIterable[Iterable[int]]
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


async def iterate(pieces: Pieces) -> AsyncGenerator[Iterable[int], None]:
    """The pieces of either kind of iterable."""
    if isinstance(pieces, AsyncIterable):
        async for ids in pieces:
            yield ids
    else:
        for ids in pieces:
            yield ids
