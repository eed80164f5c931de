"""The process `python -m tokenizer_service`: start, health, a lost engine, drain and bad starts."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tokenizer_service.__main__
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.server import ServerConfig
from folovllm.v1 import (
    engine_service_pb2,
    engine_service_pb2_grpc,
    tokenizer_service_pb2_grpc,
    types_pb2,
)
from folovllm.v1 import tokenizer_service_pb2 as messages
from support.builders.sample_tokenizers import save_byte_tokenizer
from support.fakes.engine import FakeEngine, engine_process, running
from tokenizer_service.config import TokenizerServiceConfig
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.engines.replicas import Replicas
from tokenizer_service.model import TextModel
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.text.tokenizer import Tokenizer

Request = messages.GenerateRequest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_byte_tokenizer(tmp_path)


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tokenizer_service",
        *arguments,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        async with asyncio.timeout(100):
            yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def ready_line(started: asyncio.subprocess.Process) -> dict[str, Any]:
    assert started.stderr is not None
    async for line in started.stderr:
        entry: dict[str, Any] = json.loads(line)
        if entry["event"] == "ready":
            return entry
    raise AssertionError("the service ended before it was ready")


async def test_the_process_serves_follows_its_engine_and_drains(model: Path) -> None:
    fingerprint = Tokenizer.from_folder(model).fingerprint
    async with AsyncExitStack() as stack:
        first = AsyncExitStack()
        engine, engine_port = await first.enter_async_context(engine_process(fingerprint))
        arguments = f"--port 0 --log-format json --engine 127.0.0.1:{engine_port}".split()
        service = await stack.enter_async_context(process(*arguments, "--model", str(model)))
        ready = await ready_line(service)
        assert ready["engines"] == 1
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(ready["address"]))
        stub: Any = tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=TOKENIZER_SERVICE)
        )
        health = [response.status async for response in _until_serving(watch)]
        assert health[-1] == health_pb2.HealthCheckResponse.SERVING

        # The engine dies under a running stream.
        call = stub.Generate(Request(text="a"))
        assert (await call.read()).text == "hello"
        engine.send_signal(signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(1):
                await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await first.aclose()

        # The engine comes back.
        await stack.enter_async_context(engine_process(fingerprint, engine_port))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING

        # SIGTERM: health first, new streams refused, the running one goes on to its end.
        call = stub.Generate(Request(request_id="last", text="a"))
        assert (await call.read()).text == "hello"
        service.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(Request(text="a")).read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        to_engine = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{engine_port}")
        )
        await engine_service_pb2_grpc.EngineServiceStub(to_engine).Abort(
            engine_service_pb2.AbortRequest(request_id="last", indexes=[0])
        )
        assert (await call.read()).finish_reason == types_pb2.FINISH_REASON_ABORT
        assert await call.read() is grpc.aio.EOF
        assert await service.wait() == 0


async def _until_serving(watch: Any) -> AsyncIterator[Any]:
    while True:
        response = await watch.read()
        yield response
        if response.status == health_pb2.HealthCheckResponse.SERVING:
            return


async def _failed_start(*arguments: str) -> str:
    async with process(*arguments) as started:
        _, stderr = await started.communicate()
        assert started.returncode == 1
        return stderr.decode()


async def test_a_port_in_use_is_one_clear_line(model: Path) -> None:
    async with running(FakeEngine()) as served:
        stderr = await _failed_start("--port", str(served.port), "--model", str(model))
    *_, line = stderr.splitlines()  # gRPC's own complaint may come before
    assert re.fullmatch(rf"error: cannot listen on 127.0.0.1:{served.port}: .*", line)


async def test_a_folder_without_a_tokenizer_is_one_clear_line(tmp_path: Path) -> None:
    line = await _failed_start("--port", "0", "--model", str(tmp_path))
    assert line == f"error: {tmp_path} has no tokenizer.json; is it a model's folder?\n"


async def test_a_service_that_cannot_tell_its_health_any_more_ends(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(pool: EnginePool) -> AsyncIterator[bool]:
        yield False
        raise KeyError("a bug")

    async def no_warm_up(servicer: TokenizerServicer) -> None:
        """It would exempt what this process holds from being collected."""

    monkeypatch.setattr(EnginePool, "readiness", broken)
    monkeypatch.setattr(tokenizer_service.__main__, "_warm_up", no_warm_up)
    config = TokenizerServiceConfig(server=ServerConfig(port=0))
    with pytest.raises(KeyError, match="a bug"):
        async with asyncio.timeout(30):
            await tokenizer_service.__main__.serve(config, TextModel.from_folder(model), Replicas())
