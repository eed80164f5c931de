"""AsyncCalling: how a client calls its servers, from asyncio."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from folovllm.errors import ClientClosedError, FolovError, InvalidRequestError
from folovllm.v1 import tokenizer_service_pb2, types_pb2
from folovllm_client.api.calls.async_calls import (
    AsyncServer,
    StreamMethod,
    UnaryMethod,
    call_once,
    means_closed,
    open_channel,
    pause,
)
from folovllm_client.api.calls.call_errors import is_unknown_method, to_error, wrong_service
from folovllm_client.api.calls.perseverance import Perseverance
from folovllm_client.api.calls.progress import Progress, Request
from folovllm_client.api.calls.running_calls import RunningCalls
from folovllm_client.api.calls.servers import Server, Servers, read_addresses

if TYPE_CHECKING:
    from folovllm.v1.engine_service_pb2_grpc import EngineServiceAsyncStub
    from folovllm.v1.tokenizer_service_pb2_grpc import TokenizerServiceAsyncStub

_Output = TypeVar("_Output")
_PROBE_TIMEOUT = 5.0


class AsyncCalling:
    """The connections of AsyncClient, and what its calls raise."""

    def __init__(self, address: str | Sequence[str], timeout: float | None) -> None:
        self._servers = Servers(
            [Server(each, open_channel(each)) for each in read_addresses(address)]
        )
        self._timeout = timeout
        self._calls = RunningCalls()

    @property
    def address(self) -> str:
        """The server that is asked."""
        return self._servers.current.address

    @property
    def _stub(self) -> "TokenizerServiceAsyncStub":
        stub: TokenizerServiceAsyncStub = self._servers.current.tokenizer
        return stub

    @property
    def _engine(self) -> "EngineServiceAsyncStub":
        stub: EngineServiceAsyncStub = self._servers.current.engine
        return stub

    async def close(self) -> None:
        """Ends running calls and the connections."""
        self._calls.cancel()
        for channel in self._servers.channels:
            await channel.close()

    async def _call(
        self, method: "UnaryMethod[_Output]", request: object, timeout: float | None = None
    ) -> _Output:
        """The answer of a call that has one."""
        deadline = self._deadline(timeout)
        async with self._errors(deadline):
            return await call_once(method, request, deadline, self._calls)

    async def _stream(
        self,
        method: StreamMethod,
        request: object,
        timeout: float | None,
        read: Callable[[Any], _Output | None],
    ) -> AsyncGenerator[_Output, None]:
        """The answers of a call, which begins when the first is requested.

        `read` returns None for a message that is a part of the next answer.
        """
        deadline = self._deadline(timeout)
        async with self._errors(deadline):
            call = method(request, timeout=deadline)
            with self._calls.running(call):
                async for message in call:
                    if (output := read(message)) is not None:
                        yield output

    async def _resumed(
        self,
        request: Request,
        timeout: float | None,
        new_reader: Callable[[], Callable[[Any], _Output | None]],
        calls: RunningCalls | None = None,
    ) -> AsyncGenerator[_Output, None]:
        """The answers of a Generate or Chat, which goes on by itself when its connection breaks."""
        deadline = self._deadline(timeout)
        calls = calls or self._calls
        perseverance = Perseverance(deadline, len(self._servers))
        progress = Progress(request)
        sent = progress.first_request()
        while True:
            server, num_read = self._servers.current, progress.num_read
            read = progress.reader(new_reader)
            try:
                async with self._errors(deadline, server):
                    call = _method(server, sent)(sent, timeout=perseverance.seconds_left)
                    with calls.running(call):
                        async for message in call:
                            if (output := read(message)) is not None:
                                yield output
                return
            except FolovError as error:
                if progress.is_complete:
                    return
                if not progress.can_go_on:
                    raise
                advanced = progress.num_read > num_read
                seconds = perseverance.delay(error, progress.has_begun, advanced)
            self._servers.give_up(server)
            async with self._errors(deadline):
                await pause(seconds, calls)
            sent = progress.next_request()

    @asynccontextmanager
    async def _errors(
        self, deadline: float | None, server: "AsyncServer | None" = None
    ) -> AsyncIterator[None]:
        """Turns what a call raises into an error of `folovllm.errors`, without gRPC's behind it.

        `server` is the one that was called, by default the present one.
        """
        try:
            yield
        except FolovError:
            raise
        except BaseException as error:
            if self._calls.cancelled and means_closed(error):
                raise ClientClosedError("the client is closed; open another") from None
            if is_unknown_method(error) and (other := await self._other_service()):
                raise other from None
            if isinstance(error, grpc.RpcError):
                address = (server or self._servers.current).address
                raise to_error(error, address, deadline) from None
            raise

    async def _other_service(self) -> FolovError | None:
        """What answers where the tokenizer service should; None if it does, in another version."""
        if await self._has(self._engine.GetModelInfo):
            return wrong_service(self.address, is_engine=True)
        if await self._has(self._stub.GetModelInfo):
            return None
        return wrong_service(self.address, is_engine=False)

    async def _has(self, method: "UnaryMethod[types_pb2.ModelInfo]") -> bool:
        """Whether the server has a method, however it answers."""
        try:
            await call_once(method, types_pb2.GetModelInfoRequest(), _PROBE_TIMEOUT, self._calls)
        except grpc.RpcError as error:
            return not is_unknown_method(error)
        return True

    def _deadline(self, timeout: float | None = None) -> float | None:
        """The seconds that a call has. Raises InvalidRequestError for what are none."""
        deadline = self._timeout if timeout is None else timeout
        if deadline is not None and not (isinstance(deadline, int | float) and deadline > 0):
            raise InvalidRequestError(
                "timeout", f"timeout must be a number of seconds over 0, got {deadline!r}"
            )
        return deadline


def _method(server: AsyncServer, request: object) -> StreamMethod:
    is_chat = isinstance(request, tokenizer_service_pb2.ChatRequest)
    method: StreamMethod = server.tokenizer.Chat if is_chat else server.tokenizer.Generate
    return method
