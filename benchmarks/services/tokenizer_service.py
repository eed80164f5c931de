"""What the tokenizer service costs: deltas a second, and a chat's first token over an engine's.

    python -m benchmarks.services.tokenizer_service [--model MODEL] [--streams 256] [--step-ms 10]

Starts one worker of the service and an engine that replays token ids, each a process of its own,
and asks them from this one. Beside them, in turn and in one more process, transformers'
TextIteratorStreamer turns the same ids into text, which is what a program without services does.

A delta is one token id of one stream on its way to text. The engine brings each stream one in a
step of so many milliseconds, which bounds the rate by the clock. A core's rate is deltas over the
processor time of the service's process, so that what else runs on the machine does not count.
Messages that wait are merged: a service that has too much to do sends fewer, larger ones.

Times to first token are of one request at a time: a chat through the service, the same ids asked of
the engine itself, and template, encoding and one id through TextIteratorStreamer.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

import grpc
import psutil

from benchmarks.harness import machine
from benchmarks.services.replay_services import Services, replay_services
from benchmarks.services.streamer_peer import StreamerPeer, Streaming
from folovllm.model_files import CONFIG_PATTERNS, resolve_model
from folovllm.sampling_params import SamplingParams
from folovllm.serving.channel import CLIENT_OPTIONS
from folovllm.v1 import engine_service_pb2_grpc, types_pb2
from folovllm_client.api.async_client import AsyncClient
from tokenizer_service.text.tokenizer import Tokenizer

_WARM_UP = 10
_QUESTION = "What is the capital of France? Answer in one short sentence, please."


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Milliseconds from a request to its first token."""

    way: str
    median_ms: float
    p90_ms: float


def main() -> None:
    """Prints both tables, or JSON."""
    args = _parse_args()
    streaming, first_tokens = asyncio.run(_measure(args))
    if args.json:
        print(json.dumps([*map(asdict, streaming), *map(asdict, first_tokens)]))
        return
    print(f"{machine.describe()}\n")
    print(f"{f'{args.streams} streams of {args.tokens}':<26}{'deltas/s a core':>17}", end="")
    print(f"{'deltas/s by the clock':>23}{'deltas a message':>18}")
    for each in streaming:
        rates = f"{each.per_core:>17,.0f}{each.deltas / each.wall_s:>23,.0f}"
        print(f"{each.way:<26}{rates}{each.deltas / each.messages:>18.1f}")
    print(f"\n{'time to first token, ms':<26}{'median':>17}{'p90':>23}")
    for first in first_tokens:
        print(f"{first.way:<26}{first.median_ms:>17.2f}{first.p90_ms:>23.2f}")
    bare, chat = first_tokens[0], first_tokens[1]
    print(f"{'chat over bare engine':<26}{chat.median_ms - bare.median_ms:>17.2f}")


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="folder or hub id of the tokenizer (the embedded one)")
    parser.add_argument("--streams", type=int, default=256, help="at once (%(default)s)")
    parser.add_argument("--tokens", type=int, default=500, help="of each stream (%(default)s)")
    parser.add_argument("--step-ms", type=float, default=10.0, help="of the engine (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way (%(default)s)")
    parser.add_argument("--chats", type=int, default=300, help="one by one (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    return parser.parse_args()


async def _measure(args: argparse.Namespace) -> tuple[list[Streaming], list[FirstToken]]:
    folder = resolve_model(args.model, CONFIG_PATTERNS)
    tokenizer = Tokenizer.from_folder(folder)
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(replay_services(str(folder), args.step_ms))
        client = await stack.enter_async_context(AsyncClient(services.address))
        peer = stack.enter_context(StreamerPeer(str(folder)))
        ids = tokenizer.encode(_QUESTION * (1 + args.tokens // 8))[: args.tokens]

        async def served() -> Streaming:
            return await _stream(client, services.process, args.streams, args.tokens)

        async def by_peer() -> Streaming:
            return await asyncio.to_thread(peer.stream, ids, args.streams)

        streaming = await _median_of_turns([served, by_peer], args.repeats)
        return streaming, await _first_tokens(client, services, peer, args.chats)


async def _median_of_turns(
    works: list[Callable[[], Awaitable[Streaming]]], repeats: int
) -> list[Streaming]:
    """A B A B …, after one turn to warm up; of each the run of median rate."""
    runs: list[list[Streaming]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for place, work in enumerate(works):
            run = await work()
            if turn:
                runs[place].append(run)
    return [sorted(each, key=lambda run: run.per_core)[len(each) // 2] for each in runs]


async def _stream(
    client: AsyncClient, process: psutil.Process, num_streams: int, num_tokens: int
) -> Streaming:
    """Counts from when all streams have begun until the first one ends."""
    params = SamplingParams(max_tokens=num_tokens)
    counts: list[_Count] = []
    num_begun = deltas = messages = 0

    async def one() -> None:
        nonlocal num_begun, deltas, messages
        first = True
        async for piece in client.stream(_QUESTION, params):
            messages += 1
            deltas += len(piece.token_ids)
            num_begun += first
            if first and num_begun == num_streams:
                counts.append(_Count.now(process, deltas, messages))
            first = False
            if piece.finished and len(counts) == 1:
                counts.append(_Count.now(process, deltas, messages))

    await asyncio.gather(*[one() for _ in range(num_streams)])
    if len(counts) < 2:
        raise SystemExit("error: a stream ended before all had begun; give more --tokens")
    begin, end = counts
    return Streaming(
        "tokenizer service",
        end.deltas - begin.deltas,
        end.messages - begin.messages,
        end.wall_s - begin.wall_s,
        end.cpu_s - begin.cpu_s,
    )


@dataclass(frozen=True, slots=True)
class _Count:
    """What had come at one moment."""

    deltas: int
    messages: int
    wall_s: float
    cpu_s: float

    @classmethod
    def now(cls, process: psutil.Process, deltas: int, messages: int) -> "_Count":
        times = process.cpu_times()
        return cls(deltas, messages, time.perf_counter(), times.user + times.system)


async def _first_tokens(
    client: AsyncClient, services: Services, peer: StreamerPeer, repeats: int
) -> list[FirstToken]:
    async with grpc.aio.insecure_channel(services.engine_address, options=CLIENT_OPTIONS) as ch:
        engine = engine_service_pb2_grpc.EngineServiceStub(ch)
        request = types_pb2.Request(
            prompt_token_ids=peer.prompt_token_ids(_QUESTION),
            sampling_params=types_pb2.SamplingParams(max_tokens=1),
        )

        params = SamplingParams(max_tokens=1)

        ways: dict[str, Callable[[], AsyncIterator[object]]] = {
            "bare engine": lambda: engine.Generate(request).__aiter__(),
            "chat": lambda: client.stream_chat(_QUESTION, sampling_params=params),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(repeats + _WARM_UP):
            for way, begin in ways.items():
                started = time.perf_counter()
                answer = begin()
                await anext(answer)
                if turn >= _WARM_UP:
                    times[way].append((time.perf_counter() - started) * 1e3)
                # To its end, so that nothing of it falls into another's time.
                _ = [rest async for rest in answer]
    times["TextIteratorStreamer"] = await asyncio.to_thread(peer.first_texts, _QUESTION, repeats)
    return [
        FirstToken(way, statistics.median(each), statistics.quantiles(each, n=10)[-1])
        for way, each in times.items()
    ]


if __name__ == "__main__":
    main()
