"""The short form: some faults and some hundred requests on real services, and no clock.

`make chaos` has the rest. Only what holds on any machine, however busy, is asserted here.
"""

from chaos.checks.limits import PATIENT
from chaos.checks.verdicts import Report
from chaos.matrix.run import SITE_FLAGS, strike
from chaos.processes.site import running_site
from chaos.soak import Floor, soak_site

FAULTS = ("cancel", "link reset")
NO_FLOOR = Floor(calls_per_second=0.0)


async def test_nothing_breaks() -> None:
    report = Report({})
    async with running_site(*SITE_FLAGS) as site:
        await soak_site(site, report, seed=1, total=100, width=32, num_asks=6, floor=NO_FLOOR)
        await strike(site, report, FAULTS, PATIENT)
    failed = {name: check.examples for name, check in report.checks.items() if check.num_failed}
    assert failed == {}
    cells = [name for name in report.checks if name.startswith("matrix: ")]
    assert len(cells) >= 12 * len(FAULTS)
