"""Prompts on the engine: tokens a second, with nothing beside them."""

import statistics
import time
from collections.abc import Iterator
from functools import partial

from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.engine import decoding
from benchmarks.gpu.line import Line

SECTION = "prefill"


def cases(bench: Bench) -> list[BenchCase]:
    """Prompts that arrive together, until each has its first token."""
    return [
        BenchCase(f"{prompts} x {length}", partial(_prefill, bench, prompts, length))
        for prompts, length in bench.plan.prefill
    ]


def _prefill(bench: Bench, prompts: int, length: int) -> Iterator[Line]:
    engine, times = bench.engine, []
    for _ in range(bench.plan.prefill_turns + 1):
        engine.add_random(prompts, length, decoding(1))
        started = time.perf_counter()
        engine.run()
        times.append(time.perf_counter() - started)
    yield Line(
        SECTION,
        f"{prompts} x {length}",
        statistics.median(times[1:]),  # the first one warms up
        operations=bench.shape.prefill_operations((length,) * prompts),
        tokens=prompts * length,
    )
