"""The time to the first token of a prompt that comes while others decode, and what they notice."""

import statistics
import time
from collections.abc import Iterator
from functools import partial

from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.engine import SteppedEngine, decoding
from benchmarks.gpu.line import Line

SECTION = "first-token"
GAP, STEP = "longest gap, ms", "step, ms"
_STEPS_BETWEEN = 8


def cases(bench: Bench) -> list[BenchCase]:
    """A prompt that arrives while others decode."""
    plan = bench.plan
    name = f"{plan.load_prompt} beside {plan.load[0]} x {plan.load[1]}"
    return [BenchCase(name, partial(_lines, bench, name))]


def _lines(bench: Bench, name: str) -> Iterator[Line]:
    engine, plan = bench.engine, bench.plan
    batch, context = plan.load
    streams = engine.add_random(batch, context, decoding(plan.max_model_len - context))
    engine.step_until_decoding(streams)
    waits, gaps, steps = [], [], []
    for _ in range(plan.load_turns):
        started = time.perf_counter()
        for _ in range(_STEPS_BETWEEN):
            engine.step()
        steps.append((time.perf_counter() - started) / _STEPS_BETWEEN)
        wait, gap = _arrival(engine, streams, plan.load_prompt)
        waits.append(wait)
        gaps.append(gap)
    yield Line(
        SECTION,
        name,
        statistics.median(waits),
        extras={GAP: max(gaps) * 1e3, STEP: statistics.median(steps) * 1e3},
    )


def _arrival(engine: SteppedEngine, streams: list[str], prompt_tokens: int) -> tuple[float, float]:
    """Seconds until a new prompt has its first token, and the longest that a stream waits then."""
    started = time.perf_counter()
    (newcomer,) = engine.add_random(1, prompt_tokens, decoding(1))
    latest = dict.fromkeys(streams, started)
    wait, gap, steps_after = 0.0, 0.0, 0
    while steps_after < _STEPS_BETWEEN:
        outputs = engine.step()
        now = time.perf_counter()
        for output in outputs:
            if output.request_id == newcomer:
                wait = now - started
            elif output.token_ids:
                gap = max(gap, now - latest[output.request_id])
                latest[output.request_id] = now
        steps_after += wait > 0
    return wait, gap
