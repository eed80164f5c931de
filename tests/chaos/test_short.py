"""The short form: some faults and some hundred requests on real services, and no clock.

`make chaos` has the rest. Only what holds on any machine, however busy, is asserted here.
"""

import random

from chaos.checks.limits import PATIENT
from chaos.checks.verdicts import Report
from chaos.exact.asks import NUM_KINDS
from chaos.exact.kills import kill_round
from chaos.exact.round import Ground, pace
from chaos.matrix.run import SITE_FLAGS, strike
from chaos.processes.site import front_end_stub, running_site
from chaos.soak import Floor, soak_site

FAULTS = ("cancel", "link reset")
REPRODUCIBLE = ("--device", "cpu")
"""In the model's own type, which the CPU kernels compute."""
PACE_SECONDS = 0.002
NO_FLOOR = Floor(calls_per_second=0.0)


async def test_no_stream_differs_where_its_engine_is_killed() -> None:
    site = running_site((), (), real_flags=REPRODUCIBLE, is_proxied=False)
    async with site as running, front_end_stub(running.front_end.address) as stub:
        for engine in running.engines:
            await pace(engine, PACE_SECONDS)
        # When the cohort has ended, nothing happens to the engine that is left.
        ground = Ground(running, stub, quiet=stub)
        await ground.all_ready()
        await kill_round(ground, random.Random(1), width=NUM_KINDS, restarts=False)
    assert ground.tally.problems == []
    assert ground.tally.num_cut > 0


async def test_nothing_breaks() -> None:
    report = Report({})
    async with running_site(*SITE_FLAGS) as site:
        await soak_site(site, report, seed=1, total=100, width=32, num_asks=6, floor=NO_FLOOR)
        await strike(site, report, FAULTS, PATIENT)
    failed = {name: check.examples for name, check in report.checks.items() if check.num_failed}
    assert failed == {}
    cells = [name for name in report.checks if name.startswith("matrix: ")]
    assert len(cells) >= 12 * len(FAULTS)
