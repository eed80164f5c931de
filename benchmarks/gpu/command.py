"""How fast FolovLLM is on this GPU: against what the device can do, and against its peers.

    python -m benchmarks gpu [--only decode requests …] [--json FILE]

docs/benchmarks.md says what each line means. Nothing is downloaded: the checkpoint has random
weights. A case that fails says why, and the others go on; a run ends in time.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import torch

from benchmarks.gpu.comparison import SECTIONS, GpuComparison
from benchmarks.gpu.plan import full, smoke
from benchmarks.harness.options import add_cache, add_json, make_parser
from benchmarks.harness.random_checkpoint import checkpoint
from benchmarks.results.recorder import Recorder
from folovllm.errors import FolovError

_MODEL = "qwen3-0.6b"


def main(argv: Sequence[str]) -> None:
    """Prints the tables; writes JSON if asked to. Exits with 1 if nothing at all was measured."""
    args = _parse_args(argv)
    if not args.smoke and not torch.cuda.is_available():
        sys.exit("error: torch finds no CUDA device; --smoke runs in small on the CPU")
    model = "demo" if args.smoke else _MODEL
    recorder = Recorder("gpu", model, args.json, device="cpu" if args.smoke else "cuda")
    try:
        plan, folder = smoke() if args.smoke else full(), checkpoint(model, args.cache)
        deadline = time.monotonic() + args.seconds
        GpuComparison(folder, plan, args.smoke, deadline, recorder).run(args.only)
    except FolovError as error:
        sys.exit(f"error: {error}")
    recorder.finish()
    if not any(each.values for each in recorder.results.measurements):
        sys.exit(1)


def _parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("gpu", __doc__)
    add_json(parser)
    add_cache(parser)
    add = parser.add_argument
    sections = ", ".join(SECTIONS)
    add("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION", help=sections)
    add("--seconds", type=float, default=480, help="after which nothing begins (%(default)s)")
    add("--smoke", action="store_true", help="in small on the CPU: does everything run?")
    return parser.parse_args(argv)
