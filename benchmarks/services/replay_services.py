"""One worker of the tokenizer service before an engine that replays ids, each in a process."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import psutil

from folovllm.errors import UnavailableError
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.launch.service_commands import free_ports

_READY_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Services:
    """Where both services are, and the tokenizer service's process."""

    address: str
    engine_address: str
    process: psutil.Process


@asynccontextmanager
async def replay_services(model: str, step_milliseconds: float = 0.0) -> AsyncIterator[Services]:
    """Both of them, ready, for a model's folder; ended with the block."""
    port, engine_port = free_ports(2)
    engine_address, address = f"127.0.0.1:{engine_port}", f"127.0.0.1:{port}"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            _process(
                "benchmarks.services.replay_engine", str(engine_port), model, str(step_milliseconds)
            )
        )
        service = await stack.enter_async_context(
            _process(
                *("tokenizer_service", "--model", model, "--port", str(port)),
                *("--engine", engine_address),
            )
        )
        async with AsyncClient(address, timeout=1.0) as client:
            await _until_ready(client)
        yield Services(address, engine_address, psutil.Process(service.pid))


@asynccontextmanager
async def _process(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def _until_ready(client: AsyncClient) -> None:
    async with asyncio.timeout(_READY_TIMEOUT):
        while True:
            try:
                if await client.health() == "SERVING":
                    return
            except UnavailableError:
                pass
            await asyncio.sleep(0.1)
