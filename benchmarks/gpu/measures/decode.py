"""Whole decode steps of the engine: batches over contexts, with all that a step costs."""

import time
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.bytes import decode_step_bytes
from benchmarks.gpu.engine import SteppedEngine, decoding
from benchmarks.gpu.line import Line

SECTION = "decode"
HOST = "host not hidden, %"
_WARM_UP_STEPS = 4
# Each makes the contexts longer, which is put back only behind the last.
_REPLAYS = 8


def cases(bench: Bench) -> list[BenchCase]:
    """One for each context: its prompts are computed once, and large batches shrink to small."""
    return [
        BenchCase(f"context {context}, {batches[0]}", partial(_lines, bench, context, batches))
        for context, batches in bench.plan.decode
    ]


def line_name(batch: int, context: int) -> str:
    """Of one batch over one context."""
    return f"{batch} x {context}"


def _lines(bench: Bench, context: int, batches: Sequence[int]) -> Iterator[Line]:
    engine, plan = bench.engine, bench.plan
    new_tokens = plan.max_model_len - context
    # Each batch adds its steps to the contexts of those that stay.
    fitting = engine.kv_tokens // (context + len(batches) * (plan.decode_steps + plan.block_size))
    batches = [batch for batch in batches if batch <= fitting]
    names = engine.add_random(max(batches), context, decoding(new_tokens))
    engine.step_until_decoding(names)
    for batch in batches:
        engine.abort(names[batch:])
        names = names[:batch]
        yield _measure(bench, engine, names, context)


def _measure(bench: Bench, engine: SteppedEngine, names: Sequence[str], context: int) -> Line:
    """The mean of the steps: one alone says little where the next is launched before it ends."""
    steps, batch = bench.plan.decode_steps, len(names)
    for _ in range(_WARM_UP_STEPS):
        engine.step()
    tokens, started = 0, time.perf_counter()
    while tokens < steps * batch:
        tokens += sum(len(output.token_ids) for output in engine.step())
    seconds = (time.perf_counter() - started) / steps
    if tokens > steps * batch:
        raise RuntimeError(f"{tokens} tokens came in {steps} steps of {batch} sequences")
    lengths = [engine.num_tokens(name) - steps // 2 for name in names]
    replay = engine.replay_seconds(batch, min(steps, _REPLAYS))
    return Line(
        SECTION,
        line_name(batch, context),
        seconds,
        num_bytes=decode_step_bytes(bench.shape, lengths),
        tokens=batch,
        extras={} if replay is None else {HOST: (1 - replay / seconds) * 100},
    )
