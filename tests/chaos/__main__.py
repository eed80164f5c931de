"""The command: `python -m chaos NAME [options]`; see docs/chaos.md."""

import argparse
import asyncio
import sys
from pathlib import Path

from chaos.attacks.catalogue import ATTACKS
from chaos.attacks.run import run_attacks
from chaos.checks.limits import Limits
from chaos.checks.verdicts import Report
from chaos.exact.round import BOTH_QUANTIZATIONS, Options
from chaos.exact.run import PARTS, run_exact
from chaos.incidents.catalogue import INCIDENTS, THOROUGH
from chaos.incidents.run import run_incidents
from chaos.known_failing import KNOWN_FAILING
from chaos.matrix.faults import FAULTS
from chaos.matrix.run import run_matrix
from chaos.matrix.table import table
from chaos.overload import overload
from chaos.price import UNITS, price
from chaos.processes.descendants import no_process_left
from chaos.soak import Floor, replay, soak
from engine_service.config import QUANTIZATIONS


def main() -> int:
    """Runs what the command line names and returns the exit status."""
    args = _parse_args()
    report = Report(KNOWN_FAILING)
    with no_process_left():
        asyncio.run(args.run(args, report))
    report.print_summary()
    return report.exit_code


async def _all(args: argparse.Namespace, report: Report) -> None:
    """All but the price, unless there is a checkout to compare with."""
    attack_seconds, overload_seconds = (60.0, 60.0) if args.full else (4.0, 20.0)
    await run_matrix(report, [*FAULTS], 20 if args.full else 5, Limits())
    print(table(report, [*FAULTS]), flush=True)
    await run_incidents(report, [*INCIDENTS, *(THOROUGH if args.full else ())])
    await run_exact(report, PARTS, Options(args.seed) if args.full else Options.short(args.seed))
    await run_attacks(report, ATTACKS, attack_seconds, args.seed)
    await overload(report, overload_seconds, args.seed)
    await soak(report, args.seed, 200_000 if args.full else 15_000, args.width, Floor())
    if args.checkout is not None:
        await price(report, args.checkout, args.pairs)


async def _matrix(args: argparse.Namespace, report: Report) -> None:
    faults = args.fault or [*FAULTS]
    await run_matrix(report, faults, args.repeats, Limits())
    print(table(report, faults), flush=True)


async def _incidents(args: argparse.Namespace, report: Report) -> None:
    unknown = {*args.names} - {*INCIDENTS, *THOROUGH}
    if unknown:
        sys.exit(f"error: there is no incident {', '.join(unknown)}; see --help")
    await run_incidents(report, args.names or INCIDENTS)


async def _attacks(args: argparse.Namespace, report: Report) -> None:
    unknown = {*args.names} - {*ATTACKS}
    if unknown:
        sys.exit(f"error: there is no attack {', '.join(unknown)}; see --help")
    await run_attacks(report, args.names or ATTACKS, args.seconds, args.seed)


async def _exact(args: argparse.Namespace, report: Report) -> None:
    unknown = {*args.names} - {*PARTS}
    if unknown:
        sys.exit(f"error: there is no part {', '.join(unknown)}; see --help")
    options = Options(
        seed=args.seed,
        streams=args.streams,
        kills=args.kills,
        rounds=args.rounds,
        cuts=args.cuts,
        blocks=args.blocks,
        model=args.model,
        quantizations=args.quantization or BOTH_QUANTIZATIONS,
    )
    await run_exact(report, args.names or PARTS, options)


async def _overload(args: argparse.Namespace, report: Report) -> None:
    await overload(report, args.seconds, args.seed)


async def _soak(args: argparse.Namespace, report: Report) -> None:
    if args.only is not None:
        await replay(report, args.seed, args.only)
    else:
        await soak(report, args.seed, args.requests, args.width, Floor())


async def _price(args: argparse.Namespace, report: Report) -> None:
    await price(report, args.checkout, args.pairs, args.of or UNITS)


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m chaos", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    everything = commands.add_parser("all", help="all of them; twenty minutes")
    everything.add_argument("--full", action="store_true", help="in full, for hours")
    _add_population(everything)
    _add_price(everything, "--checkout")
    everything.set_defaults(run=_all)
    matrix = commands.add_parser("matrix", help="seven states of a request x faults")
    matrix.add_argument("--fault", action="append", choices=FAULTS, help="may be repeated")
    matrix.add_argument("--repeats", type=int, default=1, help="(%(default)s)")
    matrix.set_defaults(run=_matrix)
    incidents = commands.add_parser("incidents", help="faults of whole processes")
    incidents.add_argument(
        "names", nargs="*", metavar="NAME", help=", ".join([*INCIDENTS, *THOROUGH])
    )
    incidents.set_defaults(run=_incidents)
    attacks = commands.add_parser("attacks", help="what one caller can send to hurt others")
    attacks.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ATTACKS))
    attacks.add_argument("--seconds", type=float, default=60, help="of each (%(default)s)")
    attacks.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    attacks.set_defaults(run=_attacks)
    exact = commands.add_parser("exact", help="streams go on elsewhere, and nothing differs")
    exact.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PARTS))
    exact.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    exact.add_argument("--streams", type=int, default=2_000, help="cut by kills (%(default)s)")
    exact.add_argument("--kills", type=int, default=250, help="at least (%(default)s)")
    exact.add_argument("--rounds", type=int, default=12, help="of silence (%(default)s)")
    exact.add_argument("--cuts", type=int, default=500, help="by front ends (%(default)s)")
    exact.add_argument(
        "--blocks", type=int, default=3_000, help="of KV, of each engine (%(default)s)"
    )
    exact.add_argument("--model", help="a folder; default: the embedded one")
    exact.add_argument("--quantization", action="append", choices=QUANTIZATIONS)
    exact.set_defaults(run=_exact)
    overloading = commands.add_parser("overload", help="four times as much as can be served")
    overloading.add_argument("--seconds", type=float, default=60, help="(%(default)s)")
    overloading.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    overloading.set_defaults(run=_overload)
    soaking = commands.add_parser("soak", help="many requests for long")
    _add_population(soaking)
    soaking.add_argument("--requests", type=int, default=5_000, help="(%(default)s)")
    soaking.add_argument("--only", type=int, metavar="NUMBER", help="one caller again, alone")
    soaking.set_defaults(run=_soak)
    pricing = commands.add_parser("price", help="processor time over another checkout")
    _add_price(pricing, "checkout")
    pricing.add_argument("--of", action="append", choices=UNITS, help="may be repeated")
    pricing.set_defaults(run=_price)
    return parser.parse_args()


def _add_population(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--width", type=int, default=64, help="requests at once (%(default)s)")


def _add_price(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(name, type=Path, help="folder of the other checkout")
    parser.add_argument("--pairs", type=int, default=20, help="(%(default)s)")


if __name__ == "__main__":
    sys.exit(main())
