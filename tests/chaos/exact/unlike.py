"""Unlike: where no engine is left that computes the same to the last bit, nobody is deceived.

Two engines of one model, whose KV blocks have other sizes: their numerics fingerprints differ.
"""

import random
import signal
from collections import Counter

import grpc

from chaos.checks.verdicts import Report
from chaos.exact.cohort import Cohort
from chaos.exact.round import Ground, Options, ground, restart
from chaos.exact.stream import Received
from chaos.exact.transcript import transcript
from chaos.exact.undisturbed import num_indexes

_ROUNDS = 3
_WIDTH = 24
_GO_ON_SECONDS = 20.0
_ENGINES = tuple(("--block-size", size) for size in ("16", "32"))
LOST, INEXACT, EXACT = "ended with UNAVAILABLE", "not exact", "exact"
_ALLOWED = {"exact": (LOST,), "any": (INEXACT,), "never": (LOST,)}
"""How the streams of the engine that died may end, which are exact if they had no output yet."""


async def unlike(report: Report, options: Options) -> None:
    """In each mode: kills, after which the other engine is there but unlike."""
    for mode in ("exact", "any", "never"):
        async with ground(options, *_ENGINES, front_end_flags=("--migrate", mode)) as found:
            rng = random.Random(f"unlike {options.seed} {mode}")
            problems: list[str] = []
            told: Counter[str] = Counter()
            for number in range(_ROUNDS):
                problems += await _round(found, mode, number, rng, told)
            note = ", ".join(f"{count} {what}" for what, count in sorted(told.items()))
            report.add(f"exact: unlike: --migrate {mode}", problems, note)
            few = ["no stream was cut after its first token"]
            is_enough = told[INEXACT if mode == "any" else LOST] > 0
            report.add(f"exact: unlike: --migrate {mode}: load", [] if is_enough else few)


async def _round(
    found: Ground, mode: str, number: int, rng: random.Random, told: Counter[str]
) -> list[str]:
    """What is wrong with the streams of a cohort, some of which are cut; counts how they ended."""
    cohort = Cohort(found.site)
    cohort.begin(found.stub, found.asks(_WIDTH), "unlike")
    await cohort.until_token(rng)
    engine = found.site.engines[number % 2]
    blow = await cohort.strike(engine)
    engine.service.signal(signal.SIGKILL)
    await cohort.until_victims_go_on(blow, _GO_ON_SECONDS)
    problems: list[str] = []
    for each in await cohort.over():
        is_victim = each in blow.victims or cohort.parent_of(each) in blow.victims
        end = _end(each)
        told[end] += 1
        allowed = {EXACT, *(_ALLOWED[mode] if is_victim else ())}
        if end not in allowed:
            problems.append(f"{each}: {end} {each.details[:160]}")
    await restart(engine)
    await found.all_ready()
    return problems


def _end(received: Received) -> str:
    """How a stream ended, and what it says of itself."""
    if received.code is grpc.StatusCode.UNAVAILABLE:
        return LOST
    if received.code is not grpc.StatusCode.OK:
        return f"ended with {received.code}"
    found = transcript(received, num_indexes(received))
    if found.complaints:
        return found.complaints[0]
    says = {each.exact for each in found.continuations.values()}
    if None in says:
        return "does not say whether it is exact"
    if False not in says:
        return EXACT
    return INEXACT if received.num_moves else "not exact, and never moved"
