"""The command: `python -m chaos NAME [options]`; see docs/chaos.md."""

import argparse
import asyncio
import sys
from pathlib import Path

from chaos.checks.limits import Limits
from chaos.checks.verdicts import Report
from chaos.incidents.catalogue import INCIDENTS, THOROUGH
from chaos.known_failing import KNOWN_FAILING
from chaos.matrix.faults import FAULTS
from chaos.matrix.run import run_matrix
from chaos.matrix.table import table
from chaos.price import price
from chaos.soak import Floor, replay, soak


def main() -> int:
    """Runs what the command line names and returns the exit status."""
    args = _parse_args()
    report = Report(KNOWN_FAILING)
    asyncio.run(args.run(args, report))
    report.print_summary()
    return report.exit_code


async def _matrix(args: argparse.Namespace, report: Report) -> None:
    faults = args.fault or list(FAULTS)
    await run_matrix(report, faults, args.repeats, Limits())
    print(table(report, faults))


async def _soak(args: argparse.Namespace, report: Report) -> None:
    if args.only is not None:
        await replay(report, args.seed, args.only)
    else:
        await soak(report, args.seed, args.requests, args.width, Floor())


async def _price(args: argparse.Namespace, report: Report) -> None:
    await price(report, args.checkout, args.pairs)


async def _incidents(args: argparse.Namespace, report: Report) -> None:
    known = INCIDENTS | THOROUGH
    for name in args.only or INCIDENTS:
        try:
            async with asyncio.timeout(180):
                await known[name](report)
        except Exception as error:
            report.add(f"incident: {name} runs", [repr(error)[:500]])


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m chaos", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    matrix = commands.add_parser("matrix")
    matrix.add_argument("--fault", action="append", choices=FAULTS)
    matrix.add_argument("--repeats", type=int, default=1)
    matrix.set_defaults(run=_matrix)
    incidents = commands.add_parser("incidents")
    incidents.add_argument("only", nargs="*")
    incidents.set_defaults(run=_incidents)
    soaking = commands.add_parser("soak")
    soaking.add_argument("--requests", type=int, default=4000)
    soaking.add_argument("--seed", type=int, default=0)
    soaking.add_argument("--width", type=int, default=64)
    soaking.add_argument("--only", type=int)
    soaking.set_defaults(run=_soak)
    pricing = commands.add_parser("price")
    pricing.add_argument("checkout", type=Path)
    pricing.add_argument("--pairs", type=int, default=20)
    pricing.set_defaults(run=_price)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
