"""The engine's start: loading, tuning, warming up, and capturing what it replays."""

import time
from collections.abc import Iterator
from functools import partial

from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.line import Line

SECTION = "start"
KV_TOKENS = "KV cache, tokens"


def cases(bench: Bench) -> list[BenchCase]:
    """Once; the sections behind it in the same process find the engine ready."""
    return [BenchCase("engine", partial(_lines, bench))]


def _lines(bench: Bench) -> Iterator[Line]:
    started = time.perf_counter()
    engine = bench.engine
    seconds = time.perf_counter() - started
    yield Line(SECTION, "engine", seconds, extras={KV_TOKENS: engine.kv_tokens})
