"""Many calls and connections at once: gRPC's own limits on a server are above what is sent."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from folovllm.serving.channel import CLIENT_OPTIONS, SERVER_OPTIONS
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1.tokenizer_service_pb2 import CountTokensRequest
from folovllm.v1.tokenizer_service_pb2_grpc import (
    TokenizerServiceStub,
    add_TokenizerServiceServicer_to_server,
)
from support.builders.sample_tokenizers import byte_tokenizer
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.text.tokenizer import Tokenizer

BURST = 1500


@asynccontextmanager
async def serving(max_connections: int = 100) -> AsyncIterator[str]:
    """The address of a tokenizer service without an engine."""
    engines = EnginePool(["127.0.0.1:1"], Fingerprints("", ""))
    server = GrpcServer(ServerConfig(max_connections=max_connections), TOKENIZER_SERVICE)
    servicer = TokenizerServicer(Tokenizer(byte_tokenizer()), engines, 3000)
    add_TokenizerServiceServicer_to_server(servicer, server.grpc)
    port = server.bind()
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.grpc.stop(None)
        await engines.close()


@asynccontextmanager
async def connections(address: str, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Open channels; gRPC would let equal ones share a connection."""
    own = ("grpc.use_local_subchannel_pool", 1)
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(address, options=[*CLIENT_OPTIONS, own])
            )
            for _ in range(count)
        ]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        yield channels


async def outcome(channel: grpc.aio.Channel) -> str:
    try:
        await TokenizerServiceStub(channel).CountTokens(CountTokensRequest(text="ab"), timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_no_call_of_a_burst_is_cancelled() -> None:
    async with serving() as address, connections(address, 10) as channels:
        outcomes = await asyncio.gather(*(outcome(channels[i % 10]) for i in range(BURST)))
    assert Counter(outcomes) == {"OK": BURST}


async def test_connections_over_the_limit_are_closed_and_the_others_serve() -> None:
    async with serving(max_connections=3) as address, connections(address, 3) as channels:
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        assert [await outcome(channel) for channel in channels] == ["OK"] * 3


async def test_metadata_over_its_limit_is_refused_and_never_by_chance() -> None:
    limit = dict(SERVER_OPTIONS)["grpc.max_metadata_size"]
    async with serving() as address, connections(address, 1) as (channel,):
        stub = TokenizerServiceStub(channel)
        just_fits = (("trace", "x" * (limit - 1024)),)
        for _ in range(20):
            await stub.CountTokens(CountTokensRequest(text=""), metadata=just_fits, timeout=60)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.CountTokens(
                CountTokensRequest(text=""), metadata=(("trace", "x" * (limit + 1)),), timeout=60
            )
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await outcome(channel) == "OK"
