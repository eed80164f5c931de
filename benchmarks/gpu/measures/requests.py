"""The workload of nano-vllm's benchmark (GeeeekExplorer/nano-vllm, bench.py), on the engine.

256 requests at once, prompts and outputs of 100 to 1024 tokens each, drawn as it draws them.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.bytes import generation_bytes
from benchmarks.gpu.engine import decoding
from benchmarks.gpu.line import Line
from folovllm.sampling_params import SamplingParams

SECTION = "requests"
_TEMPERATURE = 0.6
_LARGEST_ID = 10000
_WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class DrawnRequest:
    """A prompt, and how many tokens are to follow it."""

    prompt: list[int]
    new_tokens: int


def drawn_requests(
    count: int, least: int = 100, most: int = 1024, vocab_size: int = _LARGEST_ID + 1
) -> list[DrawnRequest]:
    """Of 256 the outputs have 133,966 tokens together. All prompts are drawn before all lengths."""
    draw = random.Random(0).randint
    prompts = [[draw(0, _LARGEST_ID) for _ in range(draw(least, most))] for _ in range(count)]
    return [
        DrawnRequest([token_id % vocab_size for token_id in prompt], draw(least, most))
        for prompt in prompts
    ]


def line_name(count: int) -> str:
    """Of so many requests."""
    return f"{count} requests"


def cases(bench: Bench) -> list[BenchCase]:
    """All requests, from the first call to the last token."""
    return [BenchCase(line_name(bench.plan.num_requests), partial(_lines, bench))]


def _lines(bench: Bench) -> Iterator[Line]:
    engine, plan = bench.engine, bench.plan
    requests = drawn_requests(plan.num_requests, *plan.request_tokens, engine.vocab_size)
    engine.add_random(plan.max_num_seqs, _WARM_UP_TOKENS, decoding(_WARM_UP_TOKENS))
    engine.run()
    started, tokens = time.perf_counter(), 0
    for request in requests:
        params = SamplingParams(
            temperature=_TEMPERATURE, max_tokens=request.new_tokens, ignore_eos=True
        )
        engine.add(request.prompt, params)
    while engine.busy:
        tokens += sum(len(output.token_ids) for output in engine.step())
    seconds = time.perf_counter() - started
    if tokens != sum(request.new_tokens for request in requests):
        raise RuntimeError(f"{tokens} tokens came, which are not those that were asked for")
    lengths = [(len(request.prompt), request.new_tokens) for request in requests]
    yield Line(
        SECTION,
        line_name(plan.num_requests),
        seconds,
        num_bytes=generation_bytes(bench.shape, lengths),
        tokens=tokens,
    )
