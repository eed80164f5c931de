"""The command: `python -m chaos NAME [options]`; see docs/chaos.md."""

import argparse
import asyncio
import sys

from chaos.checks.limits import Limits
from chaos.checks.verdicts import Report
from chaos.known_failing import KNOWN_FAILING
from chaos.matrix.faults import FAULTS
from chaos.matrix.run import run_matrix
from chaos.matrix.table import table


def main() -> int:
    """Runs what the command line names and returns the exit status."""
    args = _parse_args()
    report = Report(KNOWN_FAILING)
    asyncio.run(_run(args, report))
    report.print_summary()
    return report.exit_code


async def _run(args: argparse.Namespace, report: Report) -> None:
    faults = args.fault or list(FAULTS)
    await run_matrix(report, faults, args.repeats, Limits())
    print(table(report, faults))


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m chaos", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    matrix = commands.add_parser("matrix")
    matrix.add_argument("--fault", action="append", choices=FAULTS)
    matrix.add_argument("--repeats", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
