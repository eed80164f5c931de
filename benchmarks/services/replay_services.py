"""One worker of the tokenizer service in front of an engine that replays ids, each in a process."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import psutil

from folovllm_client.launch.service_commands import LOOPBACK, free_ports
from folovllm_client.launch.supervisor import Supervisor


class Services(NamedTuple):
    """Where both services are, and the tokenizer service's process."""

    address: str
    engine_address: str
    process: psutil.Process


@asynccontextmanager
async def replay_services(
    folder: str, step_milliseconds: float, *options: str
) -> AsyncIterator[Services]:
    """Both of them, ready, for a model's folder; ended with the block. See `replay_engine`."""
    port, engine_port = free_ports(2)
    address, engine_address = f"{LOOPBACK}:{port}", f"{LOOPBACK}:{engine_port}"
    engine = ["benchmarks.services.replay_engine", str(engine_port), folder, str(step_milliseconds)]
    engine += options
    tokenizer = ["--model", folder, "--port", str(port), "--engine", engine_address]
    commands = {
        "engine service": [sys.executable, "-m", *engine],
        "tokenizer service": [sys.executable, "-m", "tokenizer_service", *tokenizer],
    }
    services = Supervisor(commands, address, lambda line: None)
    await services.start()
    try:
        await services.ready()
        (process,) = (
            child for child in psutil.Process().children() if "tokenizer_service" in child.cmdline()
        )
        yield Services(address, engine_address, process)
    finally:
        await services.stop()
