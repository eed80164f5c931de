"""Starts that fail, ends under load, and engines that die."""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from safetensors.torch import load_file, save_file

from folovllm import AsyncClient, Client, FolovError, SamplingParams
from folovllm.errors import UnavailableError
from folovllm.liveness import LivenessConfig
from folovllm.model_files import DEMO_MODEL
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.v1.engine_service_pb2 import SessionCommand
from folovllm.v1.engine_service_pb2_grpc import EngineServiceStub
from support.builders.engine_pools import request, until_ready
from support.processes.service_processes import ENGINE_FLAGS, ServiceProcess, both_services, running
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool

LONG = SamplingParams(temperature=0.0, max_tokens=150, ignore_eos=True)


async def read(
    client: AsyncClient, params: SamplingParams = LONG, resume: bool = True
) -> RequestOutput:
    result = RequestOutput()
    async for output in client.stream("Once upon a time", params, resume=resume):
        result.add(output)
    return result


async def read_on(first: CompletionOutput, rest: AsyncIterator[CompletionOutput]) -> RequestOutput:
    result = RequestOutput.join([first])
    async for output in rest:
        result.add(output)
    return result


@pytest.mark.parametrize("which", ["engine", "tokenizer"])
def test_sigterm_under_load_loses_no_stream(which: str) -> None:
    async def under_load(target: ServiceProcess, address: str) -> list[RequestOutput]:
        async with AsyncClient(address, timeout=60) as client:
            streams = [client.stream("Once upon a time", LONG) for _ in range(13)]
            # All of them run now; one that was still on its way would be refused.
            firsts = await asyncio.gather(*map(anext, streams))
            target.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*map(read_on, firsts, streams))

    with both_services() as (engine, tokenizer):
        target = engine if which == "engine" else tokenizer
        results = asyncio.run(under_load(target, tokenizer.address))
        assert all(len(result.outputs[0].token_ids) == 150 for result in results)
        assert target.process.wait(timeout=60) == 0
        assert "stopped" in target.log


def test_an_engine_ends_as_soon_as_its_streams_are_taken_over() -> None:
    async def drained(engine: ServiceProcess) -> float:
        loop = asyncio.get_running_loop()
        async with grpc.aio.insecure_channel(engine.address) as channel:
            call: Any = EngineServiceStub(channel).Session()
            watch = HealthStub(channel).Watch(HealthCheckRequest())
            names = [str(number) for number in range(16)]
            for name in names:
                command = request(name, 1, 2, 3)
                command.generate.sampling_params.max_tokens = 1000
                await call.write(command)
            begun: set[str] = set()
            while len(begun) < len(names):
                begun |= {output.request_id for output in (await call.read()).outputs}
            engine.process.send_signal(signal.SIGTERM)
            began = loop.time()
            while not (await call.read()).drains:
                pass
            for name in names:
                await call.write(SessionCommand(cancel=name))
            assert await asyncio.to_thread(engine.process.wait, 60) == 0
            seconds = loop.time() - began
            watch.cancel()
        return seconds

    with running("engine_service", *ENGINE_FLAGS) as engine:
        engine.wait_serving()
        assert asyncio.run(drained(engine)) < 2.0
        assert '"cut_off": 0' in engine.log


def test_a_killed_engine_is_unavailable_at_once_and_welcome_back() -> None:
    async def killed(engine: ServiceProcess, address: str) -> list[object]:
        loop = asyncio.get_running_loop()
        async with AsyncClient(address, timeout=60) as client:
            endless = SamplingParams(max_tokens=1000, ignore_eos=True)
            calls = [read(client, endless, resume=False) for _ in range(8)]
            streams = [asyncio.ensure_future(call) for call in calls]
            await anext(client.stream("Once", endless))
            engine.kill()
            killed_at = loop.time()
            ended: list[object] = list(await asyncio.gather(*streams, return_exceptions=True))
            assert loop.time() - killed_at < 1.0
        return ended

    with both_services() as (engine, tokenizer):
        ended = asyncio.run(killed(engine, tokenizer.address))
        assert [type(error) for error in ended] == [UnavailableError] * 8
        tokenizer.wait_serving(False)
        with (
            Client(tokenizer.address, timeout=30) as client,
            running("engine_service", *ENGINE_FLAGS, port=engine.port),
        ):
            with pytest.raises(UnavailableError):
                client.generate("Once")
            tokenizer.wait_serving()
            assert client.generate("Once", SamplingParams(max_tokens=3)).finished


def test_an_engine_that_is_stopped_is_silent(engine: ServiceProcess) -> None:
    """Its process is there, and so is the connection."""

    async def stopped() -> None:
        liveness = LivenessConfig(heartbeat=0.1, silent=0.5, lost=1.0)
        pool = EnginePool([engine.address], Fingerprints.from_folder(DEMO_MODEL), liveness=liveness)
        pool.start()
        await until_ready(pool)
        long = request("long", 1, 2, 3)
        long.generate.sampling_params.max_tokens = 100
        engine.process.send_signal(signal.SIGSTOP)
        try:
            with pool.generate(long) as run:
                await until_ready(pool, False)
                with pytest.raises(UnavailableError, match="no engine is ready: .* it is silent"):
                    pool.generate(request("new"))
                with pytest.raises(UnavailableError, match=r"it has said nothing for 1 s"):
                    await anext(run)
        finally:
            engine.process.send_signal(signal.SIGCONT)
        await until_ready(pool)
        with pool.generate(request("again", 1, 2, 3)) as run:
            await anext(run)
        await pool.close()

    asyncio.run(stopped())


def fails_to_start(module: str, *flags: str) -> str:
    """The one line that a service says when it cannot start."""
    done = subprocess.run(
        [sys.executable, "-m", module, *flags], capture_output=True, text=True, timeout=99
    )
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if '"level": "info"' not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.mark.parametrize("module", ["engine_service", "tokenizer_service"])
def test_a_port_in_use(module: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"127.0.0.1:{port}" in fails_to_start(module, "--port", str(port))


@pytest.mark.parametrize("module", ["engine_service", "tokenizer_service"])
def test_a_model_that_is_not_there(module: str) -> None:
    assert "./nowhere" in fails_to_start(module, "--port", "0", "--model", "./nowhere")


def test_models_that_cannot_be_served(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    flags = ("engine_service", "--port", "0", "--model", str(model))

    weights = load_file(model / "model.safetensors")
    missing = "model.layers.0.mlp.up_proj.weight"
    save_file({k: v for k, v in weights.items() if k != missing}, model / "model.safetensors")
    assert missing in fails_to_start(*flags)

    (model / "model.safetensors").unlink()
    assert "safetensors" in fails_to_start(*flags)

    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["GPT2LMHeadModel"]}))
    assert "GPT2LMHeadModel" in fails_to_start(*flags)


def test_another_tokenizer_is_refused(tmp_path: Path, engine: ServiceProcess) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    with (model / "tokenizer.json").open("a") as file:
        file.write("\n")
    flags = ("--model", str(model), "--engine", engine.address)
    with running("tokenizer_service", *flags) as other:
        other.wait_serving(False)
        with Client(other.address, timeout=30) as client:
            while True:  # until it has met the engine; pytest's timeout bounds it
                with pytest.raises(FolovError) as refused:
                    client.generate("Hello")
                if not isinstance(refused.value, UnavailableError):
                    break
    from folovllm.errors import ModelMismatchError

    assert isinstance(refused.value, ModelMismatchError)
