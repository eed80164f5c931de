"""How soon `folovllm serve` serves, what the first calls wait, and what memory its processes hold.

    python -m benchmarks.services.start_up [--model demo|qwen3-0.6b|qwen3-1.7b] [--runs 5]

Each run is a process of its own. The clock starts with it and stops when the tokenizer service says
SERVING, which it does once an engine is ready. Processor time is what each process has used until
then; other work on the machine hardly changes it. Then one Generate and one Chat are sent, the
first that these processes see. The memory is what they have in RAM after that; of it, `files`
are pages of mapped files such as libraries and weights, which the kernel can drop.
"""

import argparse
import asyncio
import statistics
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import psutil

from benchmarks.harness import machine
from benchmarks.harness.random_checkpoint import MODELS, checkpoint, default_cache
from folovllm.errors import UnsupportedError
from folovllm.sampling_params import SamplingParams
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.launch.service_commands import LOOPBACK, free_ports
from folovllm_client.launch.supervisor import until_serving

_MIB = 2**20
# The client's own way of waiting for a server would miss its beginning by up to 0.2 s.
_LOOK_AGAIN = 0.005
_SERVICES = ("engine_service", "tokenizer_service")
_PARAMS = SamplingParams(temperature=0.0, max_tokens=8)
_SIZE_ROWS = ("in RAM", "of which files")


@dataclass(frozen=True, slots=True)
class Serving:
    """A `folovllm serve` that serves."""

    process: Process
    address: str
    seconds: float
    """From its start until it served."""


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="demo", help="(%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="(%(default)s)")
    args = parser.parse_args()
    folder = checkpoint(args.model, default_cache())
    print(machine.describe())
    seconds: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, list[float]] = defaultdict(list)
    for _ in range(args.runs):
        asyncio.run(_measure(folder, seconds, sizes))
    for name, values in seconds.items():
        print(_row(name, [1000 * value for value in values], "ms"))
    for name, values in sizes.items():
        print(_row(name, [value / _MIB for value in values], "MiB"))


async def _measure(
    folder: Path, seconds: dict[str, list[float]], sizes: dict[str, list[float]]
) -> None:
    """One run, whose figures it adds by their names."""
    async with _serve(folder) as serving, AsyncClient(serving.address) as client:
        processes = _processes(serving.process.pid)
        seconds["SERVING after"].append(serving.seconds)
        for name, process in processes.items():
            used = process.cpu_times()
            seconds[f"{name}, processor time"].append(used.user + used.system)
        first_token = client.stream("Once upon a time", _PARAMS)
        seconds["first token of the first Generate"].append(await _until_first(first_token))
        with suppress(UnsupportedError):  # a model without a chat template
            first_event = client.stream_chat("What is 2 + 3?", sampling_params=_PARAMS)
            waited = await _until_first(first_event)
            seconds["first event of the first Chat"].append(waited)
        for name, process in processes.items():
            memory = process.memory_info()
            for row, size in zip(_SIZE_ROWS, (memory.rss, memory.shared), strict=True):
                sizes[f"{name}, {row}"].append(size)


@asynccontextmanager
async def _serve(folder: Path) -> AsyncIterator[Serving]:
    """Starts both services as a user does, and stops them at the end."""
    port, engine_port = free_ports(2)
    with TemporaryFile() as log:
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "folovllm_client", "serve", "--model", str(folder)),
            *("--port", str(port), "--engine-port", str(engine_port)),
            stdout=DEVNULL,
            stderr=log,
        )
        serving = asyncio.ensure_future(_until_serving(port))
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                log.seek(0)
                sys.exit(log.read().decode(errors="replace"))
            serving.result()
            yield Serving(process, f"{LOOPBACK}:{port}", time.perf_counter() - started)
        finally:
            serving.cancel()
            if process.returncode is None:
                process.terminate()
            await ended


async def _until_serving(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, port)
        except OSError:
            await asyncio.sleep(_LOOK_AGAIN)
        else:
            writer.close()
            break
    await until_serving(f"{LOOPBACK}:{port}")


async def _until_first(stream: AsyncGenerator[object, None]) -> float:
    """Seconds until the stream brings something; reads it to its end."""
    started = time.perf_counter()
    seconds = 0.0
    async with aclosing(stream) as pieces:
        async for _ in pieces:
            seconds = seconds or time.perf_counter() - started
    return seconds


def _processes(pid: int) -> dict[str, psutil.Process]:
    """The processes of `folovllm serve` by what they are."""
    parent = psutil.Process(pid)
    named = {"folovllm serve": parent}
    for child in parent.children():
        words = child.cmdline()
        named |= {name: child for name in _SERVICES if name in words}
    return named


def _row(name: str, values: list[float], unit: str) -> str:
    low, high = min(values), max(values)
    return f"{name:<36} {statistics.median(values):>7,.0f} {unit:<4} ({low:,.0f} to {high:,.0f})"


if __name__ == "__main__":
    main()
