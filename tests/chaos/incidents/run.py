"""Runs incidents, two at a time: most of them wait."""

import asyncio
from collections.abc import Iterable

from chaos.checks.verdicts import Report
from chaos.incidents.catalogue import INCIDENTS, THOROUGH

_AT_ONCE = 2
_TIMEOUT = 240.0


async def run_incidents(report: Report, names: Iterable[str]) -> None:
    """Runs those of the names. One that does not get to its verdicts has failed."""
    places = asyncio.Semaphore(_AT_ONCE)
    known = INCIDENTS | THOROUGH

    async def run(name: str) -> None:
        async with places:
            problems = []
            try:
                async with asyncio.timeout(_TIMEOUT):
                    await known[name](report)
            except Exception as error:
                problems = [repr(error)[:500]]
            report.add(f"incident: {name}: runs", problems, quiet=not problems)

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(run(name))
