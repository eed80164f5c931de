"""The command: `python -m fuzz messages [options]`; see docs/chaos.md."""

import argparse
import asyncio
import sys

from chaos.checks.verdicts import Report
from chaos.processes.descendants import no_process_left
from fuzz.messages import fuzz_messages, replay


def main() -> int:
    """Runs what the command line names and returns the exit status."""
    args = _parse_args()
    report = Report({})
    with no_process_left():
        asyncio.run(args.run(args, report))
    report.print_summary()
    return report.exit_code


async def _messages(args: argparse.Namespace, report: Report) -> None:
    if args.only is not None:
        await replay(report, args.seed, args.only)
    else:
        await fuzz_messages(report, args.count, args.seed)


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m fuzz", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    messages = commands.add_parser("messages", help="to every method of both services")
    messages.add_argument("--count", type=int, default=500_000, help="(%(default)s)")
    messages.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    messages.add_argument("--only", type=int, metavar="NUMBER", help="one case again, alone")
    messages.set_defaults(run=_messages)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
