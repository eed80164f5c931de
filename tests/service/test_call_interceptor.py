"""What happens around a call of each of gRPC's four kinds, on a real socket."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import structlog

from folovllm.errors import InvalidRequestError, UnavailableError, from_rpc_error
from folovllm.serving.active_calls import ActiveCalls, counts_its_requests
from folovllm.serving.calls.interceptor import CallInterceptor, _reader
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1.tokenizer_service_pb2 import ChatMessage, ChatRequest

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
Context = grpc.aio.ServicerContext[bytes, bytes]


class Echo:
    """Answers each message with itself; "bad" and "bug" raise."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def answer(self, message: bytes) -> bytes:
        if message == b"bad":
            raise InvalidRequestError("message", "bad is not good")
        if message == b"bug":
            raise KeyError("bug")
        if message == b"quote":
            raise InvalidRequestError("message", "it begins with " + "\u00e4" * 1_000_000)
        return message

    async def unary_unary(self, message: bytes, context: Context) -> bytes:
        return self.answer(message)

    async def unary_stream(self, message: bytes, context: Context) -> AsyncIterator[bytes]:
        yield self.answer(message)

    async def stream_unary(self, messages: AsyncIterator[bytes], context: Context) -> bytes:
        return b"".join([self.answer(message) async for message in messages])

    async def stream_stream(
        self, messages: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        try:
            async for message in messages:
                yield self.answer(message)
        finally:
            self.ended.set()

    @counts_its_requests
    async def carrier(
        self, messages: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message


class Fixture:
    """A server of Echo, and a channel to it."""

    def __init__(self) -> None:
        self.echo = Echo()
        self.server = GrpcServer(ServerConfig(reflection=False), "folovllm.test.Echo")
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            kind: getattr(grpc, f"{kind}_rpc_method_handler")(getattr(self.echo, kind))
            for kind in KINDS
        }
        handlers["carrier"] = grpc.stream_stream_rpc_method_handler(self.echo.carrier)
        self.server.grpc.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("folovllm.test.Echo", handlers)]
        )
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.bind()}")

    def stream(self, name: str = "stream_stream") -> Any:
        """A running call with streams both ways."""
        return self.channel.stream_stream(f"/folovllm.test.Echo/{name}")()

    async def call(self, kind: str, message: bytes) -> bytes:
        """Sends one message and returns what comes for it."""
        method = getattr(self.channel, kind)(f"/folovllm.test.Echo/{kind}")
        call = method(iter([message]) if kind.startswith("stream") else message)
        try:
            if kind.endswith("unary"):
                return bytes(await call)
            return b"".join([response async for response in call])
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None


@pytest.fixture
async def fixture() -> AsyncIterator[Fixture]:
    fixture = Fixture()
    await fixture.server.start()
    yield fixture
    await fixture.channel.close()
    await fixture.server.drain()


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_is_served_logged_and_has_its_errors(fixture: Fixture, kind: str) -> None:
    with structlog.testing.capture_logs() as lines:
        assert await fixture.call(kind, b"good") == b"good"
        with pytest.raises(InvalidRequestError) as refused:
            await fixture.call(kind, b"bad")
        with pytest.raises(Exception, match="the server's log says more"):
            await fixture.call(kind, b"bug")
        # The status of an error is sent before the call leaves its line.
        while sum(line["event"] == "call" for line in lines) < 3:
            await asyncio.sleep(0)
    assert refused.value.field == "message"
    codes = [line["code"] for line in lines if line["event"] == "call"]
    assert codes == ["OK", "INVALID_ARGUMENT", "INTERNAL"]
    assert {line["method"] for line in lines} == {f"/folovllm.test.Echo/{kind}"}
    assert len(fixture.server.active_calls) == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_that_quotes_the_caller_is_cut_and_arrives(
    fixture: Fixture, kind: str
) -> None:
    with pytest.raises(InvalidRequestError, match="it begins with ä{400,600} …$") as refused:
        await fixture.call(kind, b"quote")
    assert refused.value.field == "message"


async def test_a_stream_holds_a_drain_up_and_one_that_carries_requests_does_not(
    fixture: Fixture,
) -> None:
    calls = fixture.server.active_calls
    carrier, stream = fixture.stream("carrier"), fixture.stream()
    for call in (carrier, stream):
        await call.write(b"a")
        assert await call.read() == b"a"
    assert len(calls) == 1
    drain = asyncio.ensure_future(calls.drain(30))
    drained = asyncio.ensure_future(calls.drained())
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        await fixture.call("unary_stream", b"late")
    assert not drain.done() and not drained.done()
    await stream.write(b"b")
    assert await stream.read() == b"b"
    await stream.done_writing()
    assert await stream.code() is grpc.StatusCode.OK
    await drained
    assert await drain
    carrier.cancel()


async def test_a_lost_client_ends_what_streams_both_ways(fixture: Fixture) -> None:
    stream = fixture.stream()
    await stream.write(b"a")
    await stream.read()
    stream.cancel()
    await fixture.echo.ended.wait()


def test_a_message_that_is_refused_is_not_kept_until_the_caller_is_told() -> None:
    read = _reader(ChatRequest.FromString, checks=True)
    with pytest.raises(InvalidRequestError) as refused:
        read(ChatRequest(messages=[ChatMessage()] * 5000).SerializeToString())
    assert refused.value.field == "messages" and refused.value.__context__ is None
    kept = [
        value
        for frame, _ in traceback.walk_tb(refused.value.__traceback__)
        for value in frame.f_locals.values()
    ]
    assert not any(isinstance(value, ChatRequest) for value in kept)


async def test_a_handler_is_wrapped_once_and_another_one_of_its_method_again() -> None:
    interceptor = CallInterceptor(ActiveCalls())
    make: Any = grpc.unary_unary_rpc_method_handler
    first, other = make(Echo().unary_unary), make(Echo().unary_unary)

    async def wrapped(handler: Any) -> Any:
        async def continuation(_: grpc.HandlerCallDetails) -> Any:
            return handler

        details: Any = SimpleNamespace(method="/folovllm.v1.Test/Echo")
        return await interceptor.intercept_service(continuation, details)

    assert await wrapped(None) is None
    assert await wrapped(first) is await wrapped(first)
    before, after = await wrapped(first), await wrapped(other)
    assert after is not before


async def test_who_asks_for_health_waits_behind_no_burst() -> None:
    interceptor = CallInterceptor(ActiveCalls())

    async def continuation(_: grpc.HandlerCallDetails) -> Any:
        return None

    async def call(method: str) -> None:
        await interceptor.intercept_service(continuation, SimpleNamespace(method=method))

    burst = [asyncio.ensure_future(call("/folovllm.v1.Test/Echo")) for _ in range(1000)]
    await asyncio.sleep(0)
    assert sum(task.done() for task in burst) < 100
    await call("/grpc.health.v1.Health/Check")
    assert sum(task.done() for task in burst) < 100
    await asyncio.gather(*burst)
