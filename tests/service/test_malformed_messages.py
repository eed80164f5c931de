"""Bytes that are no message, sent to every method of both services, to health and reflection."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from folovllm.v1 import engine_service_pb2, tokenizer_service_pb2, tokenizer_service_pb2_grpc
from support.builders.sample_tokenizers import save_byte_tokenizer
from support.processes.engine_sessions import EngineFixture, ask
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.text.tokenizer import Tokenizer

ATTEMPTS = 6
FILES = (engine_service_pb2, tokenizer_service_pb2, health_pb2, reflection_pb2)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if (service.full_name, method.name) != ("grpc.health.v1.Health", "List")  # not served
}


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[EngineFixture]:
    """The engine service, and the tokenizer service on the same server."""
    fixture = EngineFixture()
    tokenizer = Tokenizer.from_folder(save_byte_tokenizer(tmp_path))
    pool = EnginePool(["127.0.0.1:1"], Fingerprints(tokenizer.fingerprint, ""))
    servicer = TokenizerServicer(tokenizer, pool, 1000)
    tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(servicer, fixture.server.grpc)
    await fixture.start()
    yield fixture
    await pool.close()
    await fixture.stop()


def malformed(method: MethodDescriptor, source: random.Random) -> Iterator[bytes]:
    """Random bytes and broken-off messages that the method's type does not take."""
    read = GetMessageClass(method.input_type).FromString
    yield b"\xff"
    yield b"\x0a\x05\xff"
    while True:
        data = source.randbytes(source.randint(1, 300))
        try:
            read(data)
        except DecodeError:
            yield data


async def answer(channel: grpc.aio.Channel, path: str, data: bytes) -> tuple[grpc.StatusCode, str]:
    """How a call ends that sends these bytes, and nothing else until then."""
    method = METHODS[path]
    kind = "_".join(
        "stream" if streams else "unary"
        for streams in (method.client_streaming, method.server_streaming)
    )
    start = getattr(channel, kind)(path)
    call: Any = start() if method.client_streaming else start(data)
    if method.client_streaming:
        await call.write(data)
    try:
        async with asyncio.timeout(20):
            _ = [each async for each in call] if method.server_streaming else await call
    except grpc.aio.AioRpcError:
        pass
    return await call.code(), await call.details()


async def test_malformed_messages_are_the_callers_error(
    both: EngineFixture, caplog: pytest.LogCaptureFixture
) -> None:
    source = random.Random(7)
    assert len(METHODS) > 20
    caplog.set_level(logging.WARNING)
    with structlog.testing.capture_logs() as lines:
        for path, method in METHODS.items():
            for _, data in zip(range(ATTEMPTS), malformed(method, source), strict=False):
                code, details = await answer(both.channel, path, data)
                assert code is grpc.StatusCode.INVALID_ARGUMENT, (path, data, details)
                assert details == "the message is not valid protobuf of its type"
    assert not caplog.records
    assert [line for line in lines if line["log_level"] != "info"] == []
    assert (await both.generate(ask("afterwards", max_tokens=3))).outputs[0].finished()
