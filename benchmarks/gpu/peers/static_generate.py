"""transformers' `generate` of one sequence: as it is, and with a static cache.

With that it compiles its decode step by itself, and replays it as a CUDA graph.
"""

import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.bytes import decode_step_bytes
from benchmarks.gpu.line import Line
from benchmarks.gpu.peers.transformers_model import generate_seconds, load
from benchmarks.gpu.targets import PEER_BATCH_1

SECTION = "transformers"
_TURNS = 3


def cases(bench: Bench) -> list[BenchCase]:
    """The plain one first: it needs no compiling, so there is a number in any case."""
    plan = bench.plan
    return [
        BenchCase(
            f"{PEER_BATCH_1}, eager", partial(_lines, bench, "eager", {}, 1, plan.peer_eager_tokens)
        ),
        BenchCase(
            f"{PEER_BATCH_1}, static cache, compiled",
            partial(
                _lines,
                bench,
                "static cache, compiled",
                {"cache_implementation": "static"},
                plan.peer_warm_ups,
                plan.peer_new_tokens,
            ),
        ),
    ]


def _lines(
    bench: Bench, name: str, options: dict[str, Any], warm_ups: int, new_tokens: int
) -> Iterator[Line]:
    """A token's time is that of many less that of one, over those between.

    Both have the same cache, whose length is the longest so far, so that the second is not compiled
    anew.
    """
    model, prompt = load(bench), bench.plan.peer_prompt
    ids = torch.randint(bench.shape.vocab_size, (1, prompt), device=bench.device)

    def time_of(count: int) -> float:
        return generate_seconds(model, ids, torch.ones_like(ids), count, **options)

    for _ in range(warm_ups):
        time_of(new_tokens)
    time_of(1)
    many = statistics.median(time_of(new_tokens) for _ in range(_TURNS))
    one = statistics.median(time_of(1) for _ in range(_TURNS))
    yield Line(
        SECTION,
        f"{PEER_BATCH_1}, {name}",
        (many - one) / (new_tokens - 1),
        num_bytes=decode_step_bytes(bench.shape, (prompt + new_tokens // 2,)),
        tokens=1,
        note=f"{prompt} prompt and {new_tokens} new tokens",
    )
