"""Drains: SIGTERM ends an engine with many streams at once, since another one takes them."""

import asyncio
import random
import signal
import time
from math import inf

from chaos.checks.verdicts import Report
from chaos.exact.cohort import Cohort
from chaos.exact.round import THREE_ENGINES, Ground, Options, ground, restart

END_SECONDS = 2.0
_NUM_STREAMS = 64
_BEGUN = 96
"""Some end early."""
_SCALE = 2.5
"""Of the outputs' lengths, so that most still run."""
_ROUNDS = 3
_ENGINES = tuple((*each, "--max-num-seqs", "256") for each in THREE_ENGINES[:2])
_PATIENCE = 60.0


async def drains(report: Report, options: Options) -> None:
    """Each time the streams begin while there is one engine; then the other comes, and it goes."""
    async with ground(options, *_ENGINES) as found:
        rng = random.Random(f"drains {options.seed}")
        problems, seconds = [], []
        for _ in range(_ROUNDS):
            num_running, took = await _round(found, rng)
            seconds.append(took)
            if num_running < _NUM_STREAMS:
                problems.append(f"only {num_running} streams ran when it was told to end")
            if took > END_SECONDS:
                problems.append(f"it had not ended after {took:.2f} s")
        note = f"{', '.join(f'{each:.2f}' for each in seconds)} s after SIGTERM"
        report.add("exact: drains: the process has gone", problems, note)
        await found.report(report, "drains", inf, _NUM_STREAMS * _ROUNDS)


async def _round(found: Ground, rng: random.Random) -> tuple[int, float]:
    """How many streams ran at the SIGTERM, and the seconds from then until the process had gone."""
    cohort, site = Cohort(found.site), found.site
    leaving, staying = rng.sample([*site.engines], k=2)
    staying.service.signal(signal.SIGKILL)
    await _only_ready(found, leaving.address)
    cohort.begin(found.stub, found.asks(_BEGUN, _SCALE), "drain")
    await cohort.until_all_began()
    await leaving.service.ask("allow", 0)  # however long the other one takes to start
    await restart(staying)
    await found.all_ready()
    await leaving.service.ask("allow", None)
    await cohort.until_token(rng)
    blow = await cohort.strike(leaving)
    began = time.monotonic()
    leaving.service.signal(signal.SIGTERM)
    await leaving.service.wait_ended(_PATIENCE)
    took = time.monotonic() - began
    await found.judge(cohort)
    await restart(leaving)
    await found.all_ready()
    return len(blow.victims), took


async def _only_ready(found: Ground, address: str) -> None:
    async with asyncio.timeout(_PATIENCE):
        while await found.site.front_end.ask("ready_engines") != [address]:
            await asyncio.sleep(0.02)
