"""How soon `folovllm serve` serves, what the first calls wait, and what memory its processes hold.

    python -m benchmarks start-up [--model demo|qwen3-0.6b|qwen3-1.7b] [--runs 5]

Each run is a process of its own. The clock starts with it and stops when the tokenizer service
reports SERVING, which it does once an engine is ready. Processor time is what each process has used
until then; other work on the machine hardly changes it. Then one Generate is sent, the
first that these processes see. The memory is what they have in RAM after that.
"""

import asyncio
import sys
import time
from asyncio.subprocess import DEVNULL
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile

import psutil

from benchmarks.harness.options import add_cache, add_json, make_parser
from benchmarks.harness.random_checkpoint import MODELS, checkpoint
from benchmarks.results.measurement import Unit
from benchmarks.results.recorder import Recorder
from folovllm.sampling_params import SamplingParams
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.launch.service_commands import LOOPBACK, free_ports
from folovllm_client.launch.supervisor import until_serving

_MIB = 2**20
# The client's own way of waiting for a server would miss its beginning by up to 0.2 s.
_POLL_SECONDS = 0.005
_SERVICES = ("engine_service", "tokenizer_service")
_PARAMS = SamplingParams(temperature=0.0, max_tokens=8)

_Values = dict[tuple[str, Unit], list[float]]
"""Of each run, by case and unit."""


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    parser = make_parser("start-up", __doc__)
    add_json(parser)
    add_cache(parser)
    parser.add_argument("--model", choices=MODELS, default="demo", help="(%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="(%(default)s)")
    args = parser.parse_args(argv)
    recorder = Recorder("start-up", args.model, args.json)
    folder = checkpoint(args.model, args.cache)
    found: _Values = defaultdict(list)
    for _ in range(args.runs):
        asyncio.run(_measure(folder, found))
    for (case, unit), values in found.items():
        recorder.add_values(case, unit, values, engine="services")
    recorder.finish()


async def _measure(folder: Path, found: _Values) -> None:
    """One run, whose values it adds."""
    async with _serve(folder) as (parent, address, seconds), AsyncClient(address) as client:
        processes = _processes(parent)
        found["SERVING after", "s"].append(seconds)
        for name, process in processes.items():
            used = process.cpu_times()
            found[f"processor time, {name}", "s"].append(used.user + used.system)
        started = time.perf_counter()
        async with aclosing(client.stream("Once upon a time", _PARAMS)) as pieces:
            async for _ in pieces:
                waited = time.perf_counter() - started
                found["first token of the first Generate", "ms"].append(waited * 1e3)
                break
        for name, process in processes.items():
            found[f"memory, {name}", "MiB"].append(process.memory_info().rss / _MIB)


@asynccontextmanager
async def _serve(folder: Path) -> AsyncIterator[tuple[psutil.Process, str, float]]:
    """Starts both services as a user does: process, address, and seconds until it serves."""
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
            seconds = time.perf_counter() - started
            yield psutil.Process(process.pid), f"{LOOPBACK}:{port}", seconds
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
            await asyncio.sleep(_POLL_SECONDS)
        else:
            writer.close()
            break
    await until_serving(f"{LOOPBACK}:{port}")


def _processes(parent: psutil.Process) -> dict[str, psutil.Process]:
    """The processes of `folovllm serve` by what they are."""
    named = {"folovllm serve": parent}
    for child in parent.children():
        words = child.cmdline()
        named |= {name: child for name in _SERVICES if name in words}
    return named
