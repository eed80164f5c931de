"""What a token costs between the engine's step and the detokenizer, in columns and as messages.

    python -m benchmarks wire [--rows 256] [--step-ms 3] [--seconds 5] [--quick]

All figures are processor time, in turns of columns and plain messages:

- engine: of the engine's process for a step, from what its scheduler says to the bytes that are
  sent; less what the same process spends where its steps lead to nothing to tell.
- front end: from a step's bytes to its token ids in the hands of those who read the streams.
- end to end: of the tokenizer service's process for a delta, from bytes to the bytes of its text.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import psutil

from benchmarks.harness.options import add_json, make_parser
from benchmarks.results.measurement import Unit
from benchmarks.results.recorder import Recorder
from benchmarks.services.replay_services import replay_services
from benchmarks.services.tokenizer import Run, Sizes, count_deltas
from folovllm.liveness import LivenessConfig
from folovllm.model_files import CONFIG_PATTERNS, resolve_model
from folovllm.serving.server import new_event_loop
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2
from folovllm_client.api.async_client import AsyncClient
from tokenizer_service.engines.migration.origin import Origin
from tokenizer_service.engines.part import Part
from tokenizer_service.engines.session import EngineSession
from tokenizer_service.engines.stream import EngineStream

Command = engine_service_pb2.SessionCommand
Events = engine_service_pb2.SessionEvents
_KINDS = {"columns": True, "messages": False}


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    parser = make_parser("wire", __doc__)
    add_json(parser)
    add = parser.add_argument
    add("--rows", type=int, default=256, help="sequences that run (%(default)s)")
    add("--step-ms", type=float, default=3.0, help="of the engine (%(default)s)")
    add("--seconds", type=float, default=5.0, help="of each turn (%(default)s)")
    add("--turns", type=int, default=3, help="of each (%(default)s)")
    add("--only", nargs="+", choices=_PARTS, default=[*_PARTS], help="figures (all)")
    add("--quick", action="store_true", help="in small: does everything run?")
    args = parser.parse_args(argv)
    if args.quick:
        args.rows, args.seconds, args.turns = 8, 0.3, 1
    recorder = Recorder("wire", f"{args.rows} rows, steps of {args.step_ms:g} ms", args.json)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_measure(args, recorder))
    recorder.finish()


async def _measure(args: argparse.Namespace, recorder: Recorder) -> None:
    for part in args.only:
        case, unit, measure = _PARTS[part]
        found: dict[str, list[float]] = {kind: [] for kind in _KINDS}
        for _ in range(args.turns):
            for kind, has_handles in _KINDS.items():
                found[kind].append(await measure(args, has_handles))
        for kind, values in found.items():
            recorder.add_values(case, unit, values, kind)


async def _engine(args: argparse.Namespace, has_handles: bool) -> float:
    """Microseconds for a step."""
    quiet = await _engine_step(args, has_handles, "quiet")
    return (await _engine_step(args, has_handles) - quiet) * 1e6


async def _engine_step(args: argparse.Namespace, has_handles: bool, *options: str) -> float:
    """Seconds of the engine's process for a step."""
    script = ["benchmarks.services.wire_engine", str(args.rows), str(args.step_ms), *options]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *script), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        address = f"127.0.0.1:{int(await process.stdout.readline())}"
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = engine_service_pb2_grpc.EngineServiceStub(channel).Session()
            for index in range(args.rows):
                await call.write(_command(index, has_handles))
            reader = asyncio.ensure_future(_read(call))
            while b"running" not in await process.stdout.readline():
                pass
            await asyncio.sleep(args.seconds / 5)  # the first outputs have been read
            before = _processor_time(process.pid), time.perf_counter()
            await asyncio.sleep(args.seconds)
            after = _processor_time(process.pid), time.perf_counter()
            reader.cancel()
    finally:
        process.kill()
        await process.wait()
    num_steps = (after[1] - before[1]) / args.step_ms * 1e3
    return float((after[0] - before[0]) / num_steps)


def _processor_time(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def _read(call: AsyncIterator[Events]) -> None:
    async for _ in call:
        pass


def _command(index: int, has_handles: bool) -> Command:
    params = types_pb2.SamplingParams(max_tokens=90_000, ignore_eos=True)
    request = types_pb2.Request(
        request_id=_name(index), prompt_token_ids=[1, 2, 3], sampling_params=params
    )
    return Command(generate=request, handle=1 + index if has_handles else 0)


def _name(index: int) -> str:
    return f"0123456789abcdef{index:08}"


class _Script:
    """A call of Session whose engine sends bytes when it is told to."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.messages.put_nowait(b"")

    def Session(self) -> "_Script":
        return self

    async def __aiter__(self) -> AsyncIterator[Events]:
        while True:
            yield Events.FromString(await self.messages.get())

    async def write(self, command: Command) -> None:
        pass

    def cancel(self) -> None:
        pass


async def _front_end(args: argparse.Namespace, has_handles: bool) -> float:
    """Tokens for a second of processor time."""
    script: Any = _Script()
    session = await EngineSession.open(script, "", LivenessConfig(), on_change=lambda: None)
    arrived, handles, readers, num_left = asyncio.Event(), [], [], 0

    async def read(stream: EngineStream) -> None:
        nonlocal num_left
        async for output in stream:
            num_left -= len(output.token_ids)
            if num_left == 0:
                arrived.set()

    for index in range(args.rows):
        stream = EngineStream(Origin(_command(index, False), 0.0))
        part = Part(stream, [0], lambda *_: None)
        session.generate(part, stream.origin.command, stream.name)
        handles.append(part.handle)
        readers.append(asyncio.ensure_future(read(stream)))
    names = [_name(index) for index in range(args.rows)]
    ids = range(100_000, 100_000 + args.rows)
    outputs = [
        types_pb2.CompletionOutput(request_id=n, token_ids=[i])
        for n, i in zip(names, ids, strict=True)
    ]
    columns = engine_service_pb2.OutputColumns(handles=handles, token_ids=ids)
    begin, step = Events(outputs=outputs), Events(columns=columns)
    messages = [begin, *[step if has_handles else begin] * int(args.seconds * 100)]
    started = time.process_time()
    for message in messages:
        num_left = args.rows
        arrived.clear()
        script.messages.put_nowait(message.SerializeToString())
        await arrived.wait()
    spent = time.process_time() - started
    for reader in readers:
        reader.cancel()
    await session.close()
    return float(args.rows * len(messages) / spent)


async def _end_to_end(args: argparse.Namespace, has_handles: bool) -> float:
    """Deltas for a second of the tokenizer service's processor time."""
    folder = resolve_model(None, CONFIG_PATTERNS)
    options = [] if has_handles else ["plain"]
    sizes = Sizes(streams=args.rows, tokens=int(2 * args.seconds * 1e3 / args.step_ms))
    async with (
        replay_services(str(folder), args.step_ms, *options) as services,
        AsyncClient(services.address) as client,
    ):
        count = await count_deltas(Run(client, services, folder, sizes, Recorder("wire", "", None)))
        return count.deltas / max(count.cpu_s, 0.01)  # what the system counts


_PARTS: dict[str, tuple[str, Unit, Callable[[argparse.Namespace, bool], Awaitable[float]]]] = {
    "engine": ("engine, a step", "us", _engine),
    "front-end": ("front end", "tok/s", _front_end),
    "end-to-end": ("end to end", "deltas/s", _end_to_end),
}
