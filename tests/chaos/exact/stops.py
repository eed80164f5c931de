"""Stops: an engine of three says nothing for a while, and then more than anyone wants to hear.

It is stopped, or the network stands still between it and the front end and delivers everything
late, or the network drops what is sent until the connection is made anew. Its streams have gone on
elsewhere when it comes back, and most of them still run.
"""

import asyncio
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from chaos.checks.verdicts import Report
from chaos.exact.cohort import Cohort
from chaos.exact.kills import PAUSE_LIMIT, busy_engine
from chaos.exact.round import THREE_ENGINES, Ground, Options, ground
from chaos.processes.site import Engine

_MORE_SECONDS = 2.5
"""That a silence may cost over a death: until it counts as one."""
_WIDTH = 24
_SCALE = 3.0
"""Of the outputs' lengths, so that streams outlast the silence."""
_GO_ON_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Silence:
    """A way to say nothing, and its end."""

    begin: Callable[[Engine], None]
    end: Callable[[Engine], None]


def _stop(engine: Engine) -> None:
    engine.service.signal(signal.SIGSTOP)


def _go_on(engine: Engine) -> None:
    engine.service.signal(signal.SIGCONT)


def _part(engine: Engine) -> None:
    for flow in engine.proxy.flows():
        flow.stop()


def _heal(engine: Engine) -> None:
    for flow in engine.proxy.flows():
        flow.go_on()


def _drop(engine: Engine) -> None:
    engine.proxy.drop()


def _drop_no_more(engine: Engine) -> None:
    for flow in engine.proxy.flows():
        flow.dropped = False
    engine.proxy.reset()


SILENCES = {
    "stopped": Silence(_stop, _go_on),
    "parted": Silence(_part, _heal),
    "dropped": Silence(_drop, _drop_no_more),
}


async def stops(report: Report, options: Options) -> None:
    """All silences in turns."""
    async with ground(options, *THREE_ENGINES, is_proxied=True) as found:
        rng = random.Random(f"stops {options.seed}")
        for number in range(options.rounds):
            silence = [*SILENCES.values()][number % len(SILENCES)]
            await _round(found, silence, rng)
            if found.is_hopeless:
                break
        await found.report(report, "stops", PAUSE_LIMIT + _MORE_SECONDS, options.rounds)


async def _round(found: Ground, silence: Silence, rng: random.Random) -> None:
    cohort = Cohort(found.site)
    cohort.begin(found.stub, found.asks(_WIDTH, _SCALE), "silence")
    await cohort.until_token(rng)
    engine = await busy_engine(cohort, [*found.site.engines], rng)
    blow = await cohort.strike(engine)
    silence.begin(engine)
    try:
        await cohort.until_victims_go_on(blow, _GO_ON_SECONDS)
        await asyncio.sleep(rng.uniform(0, 1.5))  # into the midst of what goes on
    finally:
        silence.end(engine)
    await found.judge(cohort)
    await found.all_ready()
