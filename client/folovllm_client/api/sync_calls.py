"""What differs between calls from threads and from asyncio; async_calls has the same names."""

from collections.abc import Iterable
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

import grpc

from folovllm.serving.channel import open_sync_channel as open_channel

__all__ = ["DuplexCall", "Pieces", "StreamMethod", "UnaryMethod", "iterate", "open_channel"]

_Output = TypeVar("_Output")
Pieces = Iterable[Iterable[int]]
UnaryMethod: TypeAlias = "grpc.UnaryUnaryMultiCallable[Any, _Output]"
StreamMethod: TypeAlias = "grpc.UnaryStreamMultiCallable[Any, Any]"
iterate = iter


class DuplexCall:
    """A call with a stream in each direction, of which one message is sent and read at a time."""

    def __init__(
        self, method: "grpc.StreamStreamMultiCallable[Any, Any]", timeout: float | None
    ) -> None:
        self._requests: SimpleQueue[object] = SimpleQueue()
        self._call = method(iter(self._requests.get, None), timeout=timeout)

    def send(self, request: object) -> None:
        """Sends a message; a call that has ended takes none, and reading says why it ended."""
        self._requests.put(request)

    def finish(self) -> None:
        """Says that nothing more is sent."""
        self._requests.put(None)

    def read(self) -> object:
        """The next message, or at the end of the call something else. Raises grpc.RpcError."""
        return next(self._call, None)

    def cancel(self) -> None:
        """Ends the call if it still runs."""
        self.finish()  # ends gRPC's thread, which waits for more
        self._call.cancel()
