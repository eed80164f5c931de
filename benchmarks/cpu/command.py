"""How fast FolovLLM is on this CPU: against what the machine can do, and against its peers.

    python -m benchmarks cpu [--model qwen3-0.6b] [--peers transformers openvino:int8 …]

docs/benchmarks.md says what each line means. Every engine runs in a process of its own, on the same
checkpoint of random weights and the same token ids, in turn.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.cpu.comparison import Setup, compare
from benchmarks.cpu.plan import full, quick
from benchmarks.harness.engine_name import CPU_PEERS, FOREIGN, EngineName
from benchmarks.harness.model_shape import WEIGHT_FORMATS
from benchmarks.harness.options import add_json, add_model, make_parser
from benchmarks.harness.random_checkpoint import checkpoint
from benchmarks.results.recorder import Recorder
from folovllm.errors import FolovError
from folovllm.model_files import model_fingerprint


def main(argv: Sequence[str]) -> None:
    """Prints the tables."""
    args = _parse_args(argv)
    model = args.model or ("demo" if args.quick else "qwen3-0.6b")
    recorder = Recorder("cpu", f"{model}, {args.threads} threads", args.json)
    try:
        plan = quick() if args.quick else full(args.rate, args.turns)
        if args.cases:
            plan = plan.pick(args.cases)
        folder = checkpoint(model, args.cache)
        setup = Setup(
            folder=folder,
            formats=tuple(args.formats),
            peers=tuple(args.peers),
            pythons=dict(args.peer_python),
            threads=args.threads,
            cache=args.cache / "peers" / f"{model}-{model_fingerprint(folder)[:12]}",
        )
        compare(setup, plan, recorder)
    except FolovError as error:
        sys.exit(f"error: {error}")
    recorder.finish()


def _parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("cpu", __doc__)
    add_model(parser, default=None)
    add_json(parser)
    add = parser.add_argument
    add("--quick", action="store_true", help="small cases and model: does everything run?")
    add("--formats", nargs="+", default=["bf16"], choices=WEIGHT_FORMATS, help="of our weights")
    peers = f"NAME[:FORMAT], of {', '.join(CPU_PEERS)}"
    add("--peers", nargs="*", default=[], type=_peer, metavar="PEER", help=peers)
    add(
        "--peer-python",
        action="append",
        default=[],
        type=_peer_python,
        metavar="NAME=PYTHON",
        help=f"interpreter of the environment that has a peer ({', '.join(FOREIGN)})",
    )
    add("--cases", nargs="+", metavar="NAME", help="those whose name begins so; * is anything")
    add("--turns", type=int, default=3, help="of each engine in each case (%(default)s)")
    add("--rate", type=float, default=1.0, help="requests a second of mixed serving (%(default)s)")
    return parser.parse_args(argv)


def _peer(text: str) -> EngineName:
    name = EngineName.parse(text)
    if name.engine not in CPU_PEERS or name.weight_format not in WEIGHT_FORMATS:
        raise argparse.ArgumentTypeError(f"{text} is not one of the engines, or not its format")
    return name


def _peer_python(text: str) -> tuple[str, str]:
    name, _, python = text.partition("=")
    if name not in FOREIGN or not python:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=PYTHON of {', '.join(FOREIGN)}")
    return name, python
