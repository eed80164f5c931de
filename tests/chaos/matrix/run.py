"""Runs the matrix: scene after scene, each struck by one fault, on two sites at once."""

import asyncio
import time
from collections.abc import Sequence

from chaos.callers.ask import Ask, Reference
from chaos.callers.call import reference_of
from chaos.checks.limits import Limits, watchdog_flags
from chaos.checks.rest import at_rest
from chaos.checks.verdicts import Report
from chaos.matrix.faults import FAULTS
from chaos.matrix.round import CANARY, PROBE, Round, new_name
from chaos.matrix.scene import ASKS, BYSTANDER, ENGINE_FLAGS, NEIGHBOURS
from chaos.processes.site import Site, front_end_stub, running_site

SITE_FLAGS = ((*ENGINE_FLAGS, *watchdog_flags()), watchdog_flags())
"""Of a site's engines: the one that is struck, and the spare one."""
_SETTLE_SECONDS = 1.0
"""Until the front end waits for the engine that is gone, and does nothing else."""
_SPARE_PACE = 0.01


async def run_matrix(report: Report, faults: Sequence[str], repeats: int, limits: Limits) -> None:
    """Strikes with each fault so often; rounds that mostly wait have a site of their own."""
    async with asyncio.TaskGroup() as lanes:
        for waits in (False, True):
            lane = [name for name in faults if FAULTS[name].waits is waits]
            if lane:
                lanes.create_task(_run_lane(report, lane, repeats, limits))


async def _run_lane(report: Report, faults: Sequence[str], repeats: int, limits: Limits) -> None:
    async with running_site(*SITE_FLAGS) as site:
        await strike(site, report, list(faults) * repeats, limits)


async def strike(site: Site, report: Report, faults: Sequence[str], limits: Limits) -> None:
    """Strikes a site of SITE_FLAGS with one fault after the other.

    A round that does not get to its verdicts has failed; the next one gets fresh processes.
    """
    references = await _references(site)
    site.engines[1].proxy.refuse()
    await asyncio.sleep(_SETTLE_SECONDS)
    rest = await at_rest(site)
    for name in faults:
        started = time.monotonic()
        problems = []
        try:
            await Round(site, FAULTS[name], references, rest, report, limits).run()
        except Exception as error:
            problems = [repr(error)[:1000]]
            site.engines[1].proxy.refuse()
            await site.engines[0].restart()
            await site.restart_front_end()
        report.add(f"matrix: {name}: round", problems, f"{time.monotonic() - started:.1f} s")


async def _references(site: Site) -> dict[Ask, Reference]:
    """What every request answers undisturbed."""
    async with front_end_stub(site.front_end.address) as stub:
        asks = (*ASKS.values(), BYSTANDER, CANARY, PROBE)
        found = {ask: await reference_of(stub, ask, new_name("reference")) for ask in asks}
    for ask in NEIGHBOURS:
        found[ask] = await reference_of(site.engines[0].stub, ask, new_name("reference"))
    await site.engines[1].service.ask("pace", _SPARE_PACE)
    return found
