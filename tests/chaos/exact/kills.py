"""Kills: engines are killed with SIGKILL at random tokens of their streams, over and over."""

import asyncio
import random
import signal

from chaos.checks.verdicts import Report
from chaos.exact.cohort import Cohort
from chaos.exact.round import THREE_ENGINES, Ground, Options, ground, restart
from chaos.processes.site import Engine

PAUSE_LIMIT = 0.3
_WIDTH = 32
_GO_ON_SECONDS = 20.0
_SECOND_BLOW = 0.7
"""The share of rounds in which another engine dies too, as soon as all goes on."""


async def kills(report: Report, options: Options) -> None:
    """Half of them with each type of weights."""
    for number, quantization in enumerate(options.quantizations):
        share = len(options.quantizations)
        async with ground(options, *THREE_ENGINES, quantization=quantization) as found:
            rng = random.Random(f"kills {options.seed} {number}")
            streams, blows = options.streams // share, options.kills // share
            while found.tally.num_cut < streams or found.tally.num_blows < blows:
                await kill_round(found, rng)
                if found.is_hopeless:
                    break
            await found.report(report, f"kills: {quantization}", PAUSE_LIMIT, streams)


async def kill_round(
    found: Ground, rng: random.Random, width: int = _WIDTH, *, restarts: bool = True
) -> None:
    """One cohort, with one or two kills; what was killed `restarts` then."""
    cohort = Cohort(found.site)
    cohort.begin(found.stub, found.asks(width), "kill")
    killed = []
    engines = [*found.site.engines]
    second = len(engines) > 2 and rng.random() < _SECOND_BLOW
    for _ in range(2 if second else 1):
        await cohort.until_token(rng)
        engine = await busy_engine(cohort, engines, rng)
        engines.remove(engine)
        blow = await cohort.strike(engine)
        engine.service.signal(signal.SIGKILL)
        await cohort.until_victims_go_on(blow, _GO_ON_SECONDS)
        killed.append(engine)
    # Only now, so that nothing else takes processor time while the streams move.
    if restarts:
        await asyncio.gather(*map(restart, killed))
        await found.all_ready()
    await found.judge(cohort)


async def busy_engine(cohort: Cohort, engines: list[Engine], rng: random.Random) -> Engine:
    """A random one of those at which streams run, if there are any."""
    where = await cohort.where()
    busy = [engine for engine in engines if where[engine.address]]
    return rng.choice(busy or engines)
