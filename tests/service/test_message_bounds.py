"""On a real socket: nothing that is out of the contract's bounds reaches a method or the log."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog

from folovllm.errors import InvalidRequestError, QueueFullError, UnsupportedError, from_rpc_error
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import engine_service_pb2 as engine
from folovllm.v1 import engine_service_pb2_grpc, tokenizer_service_pb2_grpc, types_pb2
from folovllm.v1 import tokenizer_service_pb2 as wire

Context = grpc.aio.ServicerContext[Any, Any]
COMPRESSIONS = [grpc.Compression.Gzip, grpc.Compression.Deflate]


class Seen:
    """Both services, of which some methods answer with what they were sent."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def abort(self, request: Any, context: Context) -> engine.AbortResponse:
        self.messages.append(request)
        return engine.AbortResponse(found=True)

    async def generate(
        self, request: Any, context: Context
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        self.messages.append(request)
        yield types_pb2.CompletionOutput()

    async def stream_detokenize(
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[wire.StreamDetokenizeResponse]:
        async for request in requests:
            self.messages.append(request)
            yield wire.StreamDetokenizeResponse()


class Fixture:
    def __init__(self, address: str, seen: Seen, **options: Any) -> None:
        self.seen = seen
        self.channel = grpc.aio.insecure_channel(address, **options)
        self.engine = engine_service_pb2_grpc.EngineServiceStub(self.channel)
        self.tokenizer = tokenizer_service_pb2_grpc.TokenizerServiceStub(self.channel)


@asynccontextmanager
async def serving(config: ServerConfig, **options: Any) -> AsyncIterator[Fixture]:
    seen = Seen()
    # Only some methods: the others are never called.
    bases: list[Any] = [
        engine_service_pb2_grpc.EngineServiceServicer,
        tokenizer_service_pb2_grpc.TokenizerServiceServicer,
    ]
    engine_servicer, tokenizer_servicer = (base() for base in bases)
    engine_servicer.Abort = seen.abort
    tokenizer_servicer.Generate = seen.generate
    tokenizer_servicer.StreamDetokenize = seen.stream_detokenize
    server = GrpcServer(config, "folovllm.v1.TokenizerService")
    engine_service_pb2_grpc.add_EngineServiceServicer_to_server(engine_servicer, server.grpc)
    tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(
        tokenizer_servicer, server.grpc
    )
    port = server.bind()
    await server.start()
    fixture = Fixture(f"127.0.0.1:{port}", seen, **options)
    yield fixture
    await fixture.channel.close()
    await server.grpc.stop(None)


async def refusal(call: Any) -> Exception:
    """The error that a call ends with."""
    try:
        if hasattr(call, "__aiter__"):
            _ = [message async for message in call]
        else:
            await call
    except grpc.RpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the call succeeded")


async def test_a_message_out_of_bounds_reaches_neither_the_method_nor_the_log() -> None:
    name = "n" * 3_000_000
    calls: list[tuple[Callable[[Fixture], Any], str]] = [
        (lambda it: it.engine.Abort(engine.AbortRequest(request_id=name)), "request_id"),
        (
            lambda it: it.tokenizer.Generate(wire.GenerateRequest(text="a", request_id=name)),
            "request_id",
        ),
        (
            lambda it: it.tokenizer.Generate(
                wire.GenerateRequest(text="a", sampling_params={"stop": ["a", name]})  # type: ignore[arg-type]
            ),
            "sampling_params.stop[1]",
        ),
    ]
    async with serving(ServerConfig(reflection=False)) as fixture:
        with structlog.testing.capture_logs() as lines:
            for call, field in calls:
                error = await refusal(call(fixture))
                assert isinstance(error, InvalidRequestError) and error.field == field
        assert len(repr(lines)) < 2000
        assert fixture.seen.messages == []


async def test_each_message_of_a_stream_is_checked() -> None:
    def parts() -> Any:
        yield wire.StreamDetokenizeRequest(token_ids=types_pb2.TokenIds(ids=[1]))
        yield wire.StreamDetokenizeRequest()

    async with serving(ServerConfig(reflection=False)) as fixture:
        error = await refusal(fixture.tokenizer.StreamDetokenize(parts()))
        assert isinstance(error, InvalidRequestError) and error.field == "part"
        assert len(fixture.seen.messages) == 1


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_compressed_messages_are_refused(compression: grpc.Compression) -> None:
    async with serving(ServerConfig(reflection=False), compression=compression) as fixture:
        error = await refusal(fixture.engine.Abort(engine.AbortRequest(request_id="r" * 200)))
        assert isinstance(error, UnsupportedError)
        assert "Compression algorithm" in str(error) and "is disabled" in str(error)
        assert fixture.seen.messages == []


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_compressed_messages_are_taken_where_they_are_allowed(
    compression: grpc.Compression,
) -> None:
    config = ServerConfig(reflection=False, allow_compression=True)
    async with serving(config, compression=compression) as fixture:
        request = engine.AbortRequest(request_id="r" * 200)
        assert (await fixture.engine.Abort(request)).found
        assert fixture.seen.messages == [request]
        # gRPC's limit is on what a message becomes, and this one is short on the wire.
        large = engine.AbortRequest(request_id="r" * (5 << 20))
        assert isinstance(await refusal(fixture.engine.Abort(large)), QueueFullError)
