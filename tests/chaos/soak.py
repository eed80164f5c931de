"""The soak: many requests through real services, of all kinds and in all manners, for long.

30 % are cancelled, 20 % have deadlines, 10 % read slowly, some fork. The run counts only if enough
of them were answered, and enough cut short while they streamed.
"""

import asyncio
import time
from dataclasses import dataclass

from chaos.callers.ask import Ask, Reference, generate, mixture, params
from chaos.callers.call import reference_of
from chaos.callers.population import CANCELS, DEADLINES, SLOW, Population, numbers, plan
from chaos.checks.memory import MemoryWatch
from chaos.checks.rest import at_rest
from chaos.checks.verdicts import Report
from chaos.processes.site import Site, front_end_stub, running_site

MAX_GROWTH_MIB = 20.0
_NUM_ASKS, _NUM_PARENTS = 48, 4
_REST_SECONDS = 20.0
_SAMPLE_SECONDS = 0.5
_FLAGS = ("--max-num-seqs", "32", "--num-blocks", "2048")


@dataclass(frozen=True, slots=True)
class Floor:
    """Below this a run proves nothing."""

    calls_per_second: float = 20.0
    share_ok: float = 0.35
    share_cut: float = 0.05
    """Of all calls: those that ended after their first message and before their end."""


async def soak(report: Report, seed: int, total: int, width: int, floor: Floor) -> None:
    """Sends `total` requests, `width` at a time."""
    async with running_site(_FLAGS, _FLAGS) as site:
        await soak_site(site, report, seed, total, width, floor)


async def soak_site(
    site: Site,
    report: Report,
    seed: int,
    total: int,
    width: int,
    floor: Floor,
    num_asks: int = _NUM_ASKS,
) -> None:
    """The same with a site that runs."""
    references = await _references(site, seed, num_asks)
    before = await at_rest(site)
    population, took, memory = await _run(site, references, seed, total, width)
    report.add("soak: streams", population.violations, f"{len(population.violations)} found")
    report.add("soak: floor of load", _below(floor, population, took), _load(population, took))
    report.add("soak: at rest", await before.problems(site, _REST_SECONDS))
    growth = memory.growth()
    note = ", ".join(f"{name} {mib:+.1f} MiB" for name, mib in growth.items())
    grown = [f"{name} {mib:+.1f} MiB" for name, mib in growth.items() if mib > MAX_GROWTH_MIB]
    report.add("soak: memory", grown, note)


async def replay(report: Report, seed: int, number: int) -> None:
    """Sends one request of a soak again, alone, and prints what came."""
    async with running_site(_FLAGS) as site, front_end_stub(site.front_end.address) as stub:
        references = await _references(site, seed)
        planned = plan(seed, number, tuple(references))
        print(f"caller {number}: {planned.ask.label}, {planned.ask.method}, {planned.manner}")
        population = Population([stub], references, seed, 1)
        await population.run(iter([number]), lambda: True)
        report.add(f"soak: caller {number} of seed {seed}", population.violations)


async def _run(
    site: Site, references: dict[Ask, Reference], seed: int, total: int, width: int
) -> tuple[Population, float, MemoryWatch]:
    """The population when all is done, the seconds that took, and the memory meanwhile."""
    memory = MemoryWatch(site.services)
    async with (
        front_end_stub(site.caller_proxy.address) as first,
        front_end_stub(site.caller_proxy.address) as second,
        front_end_stub(site.front_end.address) as third,
        front_end_stub(site.front_end.address) as fourth,
    ):
        # A slow network is a part of it.
        for flow in site.caller_proxy.flows():
            flow.delay, flow.throttle = 0.001, 4e6
        population = Population((first, second, third, fourth), references, seed, width)
        started = time.monotonic()
        running = asyncio.create_task(population.run(numbers(total), lambda: True))
        while not running.done():
            memory.sample(population.tally.num_calls / total)
            await asyncio.wait([running], timeout=_SAMPLE_SECONDS)
        await running
        return population, time.monotonic() - started, memory


async def _references(site: Site, seed: int, num_asks: int = _NUM_ASKS) -> dict[Ask, Reference]:
    """The asks of a seed and what they answer."""
    parents = [generate(f"parent {n} of {seed}", 16, params(40)) for n in range(_NUM_PARENTS)]
    asks = [*mixture(seed, num_asks), *parents]
    async with front_end_stub(site.front_end.address) as stub:
        return {
            ask: await reference_of(stub, ask, f"reference {number}")
            for number, ask in enumerate(asks)
        }


def _load(population: Population, took: float) -> str:
    tally = population.tally
    return (
        f"{tally.num_calls} calls in {took:.0f} s, {tally.num_calls / took:.0f} a second, "
        f"{tally.num_ok / tally.num_calls:.0%} answered, {tally.num_cut / tally.num_calls:.0%} "
        f"cut short, {tally.num_forks} forks, {tally.num_tokens / took:.0f} tokens a second; "
        f"{CANCELS:.0%} cancel, {DEADLINES:.0%} have deadlines, {SLOW:.0%} are slow"
    )


def _below(floor: Floor, population: Population, took: float) -> list[str]:
    """Where the load was too low for the run to count."""
    tally = population.tally
    rates = {
        "calls a second": (tally.num_calls / took, floor.calls_per_second),
        "answered": (tally.num_ok / tally.num_calls, floor.share_ok),
        "cut short": (tally.num_cut / tally.num_calls, floor.share_cut),
    }
    return [
        f"it does not count: {found:.2f} {what}, and at least {least:g} are needed"
        for what, (found, least) in rates.items()
        if found < least
    ]
