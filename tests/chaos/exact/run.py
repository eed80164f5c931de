"""Runs what was named, each on services of its own."""

from collections.abc import Awaitable, Callable, Iterable

from chaos.checks.verdicts import Report
from chaos.exact.drains import drains
from chaos.exact.front_ends import front_ends
from chaos.exact.kills import kills
from chaos.exact.round import Options
from chaos.exact.stops import stops
from chaos.exact.unlike import unlike

Part = Callable[[Report, Options], Awaitable[None]]
PARTS: dict[str, Part] = {
    "kills": kills,
    "stops": stops,
    "drains": drains,
    "front-ends": front_ends,
    "unlike": unlike,
}


async def run_exact(report: Report, names: Iterable[str], options: Options) -> None:
    """Runs those of the names. One that does not get to its verdicts has failed."""
    for name in names:
        problems = []
        try:
            await PARTS[name](report, options)
        except Exception as error:
            problems = [repr(error)[:1000]]
        report.add(f"exact: {name}: runs", problems, quiet=not problems)
