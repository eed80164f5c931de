"""How fast FolovLLM is on this CPU: against what the machine can do, and against its peers.

    python -m benchmarks.cpu [--model qwen3-0.6b] [--peers transformers openvino:int8 …]

docs/benchmarks.md says what each line means. Every engine runs in a process of its own, on the same
checkpoint of random weights and the same token ids, in turn.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.cpu.plan import full, quick
from benchmarks.cpu.plot import save_plot
from benchmarks.cpu.report import output_file, plot_file, text_report
from benchmarks.cpu.results import Results
from benchmarks.cpu.run import Setup, measure
from benchmarks.harness import machine
from benchmarks.harness.random_checkpoint import MODELS, checkpoint, default_cache
from benchmarks.harness.weight_formats import WEIGHT_FORMATS
from benchmarks.peers.contender import missing
from benchmarks.peers.contender_name import ContenderName
from benchmarks.peers.peer import FOREIGN, PEERS
from engine_service.config import QUANTIZATIONS
from folovllm.errors import FolovError
from folovllm.model_files import model_fingerprint


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables; writes JSON and a plot where they are asked for."""
    args = _parse_args(argv)
    try:
        for results in _measure(args, _stopwatch()):
            if args.json:
                results.save(args.json)
    except FolovError as error:
        sys.exit(f"error: {error}")
    print(f"\n{text_report([results])}")
    if args.plot:
        save_plot(results.measurements, results.title, args.plot)


def _measure(args: argparse.Namespace, say: Callable[[str], None]) -> Iterator[Results]:
    """What was found so far, again and again."""
    began = datetime.now(UTC).isoformat(timespec="seconds")
    plan = quick() if args.quick else full(args.rate, args.turns)
    if args.cases:
        plan = plan.pick(args.cases)
    pythons = dict(args.peer_python)
    absent = missing(args.peers, pythons)
    for name, reason in absent.items():
        say(f"{name} is left out: {reason}")
    say(machine.describe())
    model = args.model or ("demo" if args.quick else "qwen3-0.6b")
    folder = checkpoint(model, args.cache)
    setup = Setup(
        folder=folder,
        formats=tuple(args.formats),
        peers=tuple(name for name in args.peers if name not in absent),
        pythons=pythons,
        threads=args.threads,
        cache=args.cache / "peers" / f"{model}-{model_fingerprint(folder)[:12]}",
    )
    for run in measure(setup, plan, say):
        yield Results(
            time=began,
            command=shlex.join(sys.argv),
            machine=machine.describe(),
            model=model,
            threads=args.threads,
            versions=run.versions,
            roofline=run.ceilings,
            measurements=run.measurements,
        )


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.cpu", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--model", choices=MODELS, help="shape of the weights (qwen3-0.6b; demo with --quick)")
    add("--quick", action="store_true", help="small cases, to see that everything runs")
    add(
        "--formats",
        nargs="+",
        default=["bf16"],
        choices=("bf16", *QUANTIZATIONS[1:]),
        metavar="FORMAT",
        help="of FolovLLM's weights (bf16); what no peer is measured in has the first one alone",
    )
    add(
        "--peers",
        nargs="*",
        default=[],
        type=_peer,
        metavar="NAME[:FORMAT]",
        help=f"engines to compare with ({', '.join(PEERS)}), and the format of their weights "
        f"({', '.join(WEIGHT_FORMATS)})",
    )
    add(
        "--peer-python",
        action="append",
        default=[],
        type=_peer_python,
        metavar="NAME=PYTHON",
        help=f"interpreter of the environment that has a peer ({', '.join(FOREIGN)})",
    )
    add(
        "--cases",
        nargs="+",
        metavar="NAME",
        help="measure only what has a name that begins so; * is anything",
    )
    add("--turns", type=int, default=3, help="of each engine in each case (%(default)s)")
    add("--threads", type=int, default=torch.get_num_threads(), help="(%(default)s)")
    add("--rate", type=float, default=1.0, help="requests a second of mixed serving (%(default)s)")
    add("--cache", type=Path, default=default_cache(), help="folder of checkpoints (%(default)s)")
    add("--json", type=output_file, metavar="FILE", help="write every repeat of every case")
    add("--plot", type=plot_file, metavar="FILE", help="write a PNG; needs folovllm[bench]")
    return parser.parse_args(argv)


def _peer(text: str) -> ContenderName:
    name = ContenderName.parse(text)
    if name.peer not in PEERS or name.weight_format not in WEIGHT_FORMATS:
        raise argparse.ArgumentTypeError(f"{text} is not one of the engines, or not its format")
    return name


def _peer_python(text: str) -> tuple[str, str]:
    name, _, python = text.partition("=")
    if name not in FOREIGN or not python:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=PYTHON of {', '.join(FOREIGN)}")
    return name, python


def _stopwatch() -> Callable[[str], None]:
    """Prints lines to standard error, with the time since now."""
    started = time.monotonic()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        print(f"{minutes:3}:{seconds:02}  {text}", file=sys.stderr)

    return say


if __name__ == "__main__":
    main()
