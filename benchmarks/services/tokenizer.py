"""What the tokenizer service costs, in front of an engine that replays token ids.

    python -m benchmarks services [--only deltas chats long-prompts memory] [--quick]

One worker of the service and the engine are processes of their own, called from this one.

- deltas: a delta is one token id of one of 256 streams on its way to text. The engine sends each
  stream one in a step, which bounds the rate by the clock; a core's rate is deltas over the
  processor time of the service's process. In turn with it, transformers' TextIteratorStreamer turns
  the same ids into text, which is what a program without services does.
- chats: the time to the first event of one chat at a time, beside a request to the engine itself.
- long-prompts: the gaps between a stream's deltas, without other requests and while prompts of
  100,000 tokens come one after another from another process, none of them cached.
- memory: of the service's process, after a tenth of many short chats, and after all; and the
  processor time that it uses while nothing is asked.
"""

import argparse
import asyncio
import multiprocessing
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import grpc

from benchmarks.harness.engine_name import EngineName
from benchmarks.harness.open_loop import quantile
from benchmarks.harness.options import add_json, make_parser
from benchmarks.peers.contender import Contender
from benchmarks.peers.peer import PeerConfig
from benchmarks.results.recorder import Recorder
from benchmarks.services.replay_services import Services, replay_services
from folovllm.model_files import CONFIG_PATTERNS, resolve_model
from folovllm.sampling_params import SamplingParams
from folovllm.serving.channel import CLIENT_OPTIONS
from folovllm.v1 import engine_service_pb2_grpc, types_pb2
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.api.sync_client import Client
from tokenizer_service.text.tokenizer import Tokenizer

_QUESTION = "What is the capital of France? Answer in one short sentence, please."
_WORDS = ["the", "river", "runs", "under", "an", "old", "bridge", "and", "Anna", "counts", "7"]
_MIB = 2**20


class Sizes(NamedTuple):
    """What is measured."""

    streams: int = 256
    tokens: int = 500
    """Of each stream."""
    turns: int = 5
    chats: int = 300
    """One after another."""
    prompts: int = 20
    prompt_tokens: int = 100_000
    soak: int = 100_000
    """Chats of which 64 run at once."""
    idle_s: float = 10.0


_QUICK = Sizes(
    streams=4, tokens=60, turns=1, chats=5, prompts=2, prompt_tokens=1000, soak=200, idle_s=0.5
)


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    args = _parse_args(argv)
    recorder = Recorder("services", f"steps of {args.step_ms:g} ms", args.json)
    asyncio.run(_measure(args, recorder))
    recorder.finish()


async def _measure(args: argparse.Namespace, recorder: Recorder) -> None:
    folder = resolve_model(args.model, CONFIG_PATTERNS)
    async with (
        replay_services(str(folder), args.step_ms) as services,
        AsyncClient(services.address) as client,
    ):
        sizes = _QUICK if args.quick else Sizes()
        for part in args.only:
            await _PARTS[part](Run(client, services, folder, sizes, recorder))


def _parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("services", __doc__)
    add_json(parser)
    add = parser.add_argument
    add("--only", nargs="+", choices=_PARTS, default=[*_PARTS], help="parts (all)")
    add("--model", help="folder or hub id of the tokenizer (the embedded one)")
    add("--step-ms", type=float, default=10.0, help="of the engine (%(default)s)")
    add("--quick", action="store_true", help="in small: does everything run?")
    return parser.parse_args(argv)


class Run(NamedTuple):
    """The services, and what is done with them."""

    client: AsyncClient
    services: Services
    folder: Path
    """Of the tokenizer."""
    sizes: Sizes
    recorder: Recorder


async def _deltas(run: Run) -> None:
    sizes, tokenizer = run.sizes, Tokenizer.from_folder(run.folder)
    token_ids = tokenizer.encode(_QUESTION * (1 + sizes.tokens // 8))[: sizes.tokens]
    counts: dict[str, list[Count]] = {"folovllm": [], "TextIteratorStreamer": []}
    ours, streamed = counts.values()
    with Contender(EngineName("streamer"), PeerConfig(str(run.folder))) as peer:
        for _ in range(sizes.turns + 1):
            ours.append(await count_deltas(run))
            with peer.turn():
                call = peer.call("stream", token_ids=token_ids, num_streams=sizes.streams)
            streamed.append(Count(len(token_ids) * sizes.streams, *call))
    for case, field in (("deltas, a core", "cpu_s"), ("deltas, by the clock", "wall_s")):
        for engine, found in counts.items():
            rates = [count.deltas / getattr(count, field) for count in found[1:]]
            run.recorder.add_values(case, "deltas/s", rates, engine)


class Count(NamedTuple):
    """What had come at one moment, or between two."""

    deltas: int
    wall_s: float
    cpu_s: float


async def count_deltas(run: Run) -> Count:
    """Counts from when all streams have begun until the first one ends."""
    sizes, counts = run.sizes, list[Count]()
    num_begun = deltas = 0

    def count() -> None:
        times = run.services.process.cpu_times()
        counts.append(Count(deltas, time.perf_counter(), times.user + times.system))

    async def one() -> None:
        nonlocal num_begun, deltas
        first = True
        async for piece in run.client.stream(_QUESTION, SamplingParams(max_tokens=sizes.tokens)):
            deltas += len(piece.token_ids)
            num_begun += first
            if (first and num_begun == sizes.streams) or (piece.finished() and len(counts) == 1):
                count()
            first = False

    await asyncio.gather(*[one() for _ in range(sizes.streams)])
    begin, end = counts
    return Count(end.deltas - begin.deltas, end.wall_s - begin.wall_s, end.cpu_s - begin.cpu_s)


async def _first_events(run: Run) -> None:
    params = SamplingParams(max_tokens=1)
    async with grpc.aio.insecure_channel(run.services.engine_address, options=CLIENT_OPTIONS) as ch:
        engine = engine_service_pb2_grpc.EngineServiceStub(ch)
        request = types_pb2.Request(prompt_token_ids=[1] * 32, sampling_params=params.to_proto())
        streams: dict[str, Callable[[], AsyncIterator[object]]] = {
            "folovllm": lambda: run.client.stream_chat(_QUESTION, sampling_params=params),
            "the engine itself": lambda: engine.Generate(request).__aiter__(),
        }
        times: dict[str, list[float]] = {name: [] for name in streams}
        for _ in range(run.sizes.chats + 10):
            for name, begin in streams.items():
                started = time.perf_counter()
                answer = begin()
                await anext(answer)
                times[name].append((time.perf_counter() - started) * 1e3)
                # To its end, so that nothing of it falls into another's time.
                _ = [rest async for rest in answer]
    for name, values in times.items():
        run.recorder.add_values("first event of a chat", "ms", values[10:], name)


async def _long_prompts(run: Run) -> None:
    client, sizes = run.client, run.sizes
    prompts = _long_texts(run.folder, sizes.prompt_tokens, sizes.prompts)
    alone, beside = await _gaps(client, sizes.tokens), list[float]()
    sender = multiprocessing.get_context("spawn").Process(
        target=_send, args=(run.services.address, prompts)
    )
    sender.start()
    while sender.is_alive():
        beside += await _gaps(client, 100)
    for name, gaps in (("no prompts", alone), ("long prompts", beside)):
        for case, share in (("median", 0.5), ("p99", 0.99), ("longest", 1.0)):
            run.recorder.add_values(f"{case} gap, {name} beside it", "ms", [quantile(gaps, share)])


def _long_texts(folder: Path, num_tokens: int, count: int) -> list[str]:
    """Different texts of about so many tokens."""
    tokenizer, rng = Tokenizer.from_folder(folder), random.Random(0)
    text = " ".join(rng.choices(_WORDS, k=num_tokens))
    length = len(text) * num_tokens // len(tokenizer.encode(text))
    return [" ".join(rng.choices(_WORDS, k=2 * num_tokens))[:length] for _ in range(count)]


async def _gaps(client: AsyncClient, num_tokens: int) -> list[float]:
    """Milliseconds from each delta of a stream to the next."""
    times: list[float] = []
    async for _ in client.stream("Once", SamplingParams(max_tokens=num_tokens)):
        times.append(time.perf_counter() * 1e3)
    return [later - earlier for earlier, later in pairwise(times)]


def _send(address: str, prompts: Sequence[str]) -> None:
    """Asks for one token of each prompt."""
    with Client(address) as client:
        for prompt in prompts:
            client.generate(prompt, SamplingParams(max_tokens=1))


async def _memory(run: Run) -> None:
    client, sizes, recorder = run.client, run.sizes, run.recorder
    process, params, done = run.services.process, SamplingParams(max_tokens=4), 0
    for until in (sizes.soak // 10, sizes.soak):
        numbers = iter(range(done, until))

        async def one_after_another(numbers: Iterator[int] = numbers) -> None:
            for number in numbers:
                result = await client.chat(f"What is {number} + 1?", sampling_params=params)
                assert result.finished and len(result.answers[0].token_ids) == 4

        await asyncio.gather(*[one_after_another() for _ in range(64)])
        done = until
        memory = process.memory_info().rss / _MIB
        recorder.add_values(f"resident memory after {done:,} chats", "MiB", [memory])
    before = process.cpu_times()
    await asyncio.sleep(sizes.idle_s)
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    recorder.add_values(f"processor time in {sizes.idle_s:g} idle seconds", "s", [used])


_PARTS: dict[str, Callable[[Run], Coroutine[None, None, None]]] = {
    "deltas": _deltas,
    "chats": _first_events,
    "long-prompts": _long_prompts,
    "memory": _memory,
}
