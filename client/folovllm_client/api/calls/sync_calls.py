"""What differs between calls from threads and from asyncio; async_calls has the same names."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeAlias, TypeVar

import grpc

from folovllm.serving.channel import open_sync_channel as open_channel
from folovllm_client.api.calls.running_calls import RunningCalls
from folovllm_client.api.calls.servers import Server

__all__ = [
    "DuplexCall",
    "Pieces",
    "StreamMethod",
    "SyncServer",
    "UnaryMethod",
    "call_once",
    "iterate",
    "means_closed",
    "open_channel",
    "pause",
    "run_all",
]

_Output = TypeVar("_Output")
Pieces = Iterable[Iterable[int]]
SyncServer: TypeAlias = "Server[grpc.Channel]"
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


def call_once(
    method: "UnaryMethod[_Output]", request: object, deadline: float | None, calls: RunningCalls
) -> _Output:
    """The answer of a call that has one; closing the channel ends it, so `calls` need not."""
    return method(request, timeout=deadline)


class _Pause:
    def __init__(self) -> None:
        self._cancelled = Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def wait(self, seconds: float) -> None:
        if self._cancelled.wait(seconds):
            raise CancelledError


def pause(seconds: float, calls: RunningCalls) -> None:
    """Returns after so many seconds; ending `calls` ends it as it does a call."""
    sleep = _Pause()
    with calls.running(sleep):
        sleep.wait(seconds)


def run_all(
    jobs: Sequence[Callable[[], _Output]], limit: int, calls: RunningCalls
) -> list[_Output]:
    """The results of all jobs in their order, at most `limit` of them at a time, in threads.

    The first that fails ends the `calls` of the others, as an interrupt does; all are over then.
    """
    failures: list[Exception] = []

    def run(job: Callable[[], _Output]) -> _Output:
        if failures:
            raise CancelledError
        try:
            return job()
        except Exception as error:
            failures.append(error)
            raise

    with ThreadPoolExecutor(max(1, min(limit, len(jobs)))) as pool:
        try:
            futures = [pool.submit(run, job) for job in jobs]
            wait(futures, return_when=FIRST_EXCEPTION)
            if failures:
                raise failures[0]
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            calls.cancel()


def means_closed(error: BaseException) -> bool:
    """Whether a call failed in a way that closing the client explains."""
    if isinstance(error, grpc.RpcError):
        return isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.CANCELLED
    return isinstance(error, ValueError | CancelledError)
