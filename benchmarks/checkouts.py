"""This checkout's engine and services over those of another checkout, in turns.

    git worktree add ../before main~20
    python -m benchmarks checkouts ../before [--cases decode throughput] [--pairs 12]

Both run in this environment on the same weights and the same prompts: decoding in the engine alone,
throughput through both services. Each pair is one turn of each, every second pair in the other
order, so that neither gains by what the machine does meanwhile. The result is the mean ratio of new
over old, as the mean of the pairs' logarithms, and its 95 % interval by Student's t.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from scipy import stats

from benchmarks.cpu.plan import DECODE, THROUGHPUT
from benchmarks.harness.cases import Case
from benchmarks.harness.engine_name import EngineName
from benchmarks.harness.model_shape import WEIGHT_FORMATS, ModelShape
from benchmarks.harness.options import add_json, add_model, make_parser
from benchmarks.harness.plan import check_patterns, fits
from benchmarks.harness.random_checkpoint import checkpoint
from benchmarks.peers.contender import ROOT, Contender
from benchmarks.peers.peer import PeerConfig
from benchmarks.results.measurement import Measurement
from benchmarks.results.recorder import Recorder
from folovllm.errors import FolovError

_CASES = {"folovllm": DECODE, "services": (THROUGHPUT,)}


def main(argv: Sequence[str]) -> None:
    """Prints a line for each case."""
    args = _parse_args(argv)
    try:
        check_patterns([case.name for cases in _CASES.values() for case in cases], args.cases)
        config = PeerConfig(
            model=str(checkpoint(args.model, args.cache)),
            weight_format=args.format,
            cache=str(args.cache),
            threads=args.threads,
            max_num_seqs=32,
            max_model_len=576,
            kv_tokens=8192,
        )
        setting = f"{args.model}, {args.threads} threads; {ROOT} over {args.checkout}"
        recorder = Recorder("checkouts", setting, args.json)
        for engine, cases in _CASES.items():
            chosen = [case for case in cases if fits(case.name, args.cases)]
            if chosen:
                _compare(EngineName(engine, args.format), config, chosen, args, recorder)
    except FolovError as error:
        sys.exit(f"error: {error}")
    recorder.finish()


def _compare(
    name: EngineName,
    config: PeerConfig,
    cases: Sequence[Case],
    args: argparse.Namespace,
    recorder: Recorder,
) -> None:
    vocab_size = ModelShape.from_folder(Path(config.model)).vocab_size
    with ExitStack() as stack:
        old, new = (
            stack.enter_context(Contender(name, config, checkout=checkout))
            for checkout in (args.checkout, ROOT)
        )
        for case in cases:
            ratios = ratios_of_pairs(case, old, new, args.pairs, vocab_size)
            mean, low, high = interval(ratios)
            note = f"{mean:.3f} (95 %: {low:.3f} to {high:.3f}), {len(ratios)} pairs"
            recorder.add([Measurement(case.name, str(name), "x", tuple(ratios), note=note)])


def ratios_of_pairs(
    case: Case, old: Contender, new: Contender, count: int, vocab_size: int
) -> list[float]:
    """The rate of `new` over that of `old`, pair by pair, after one that warms up."""
    ratios: list[float] = []
    for pair in range(count + 1):
        batch = case if pair else case.warm_up
        prompts = batch.prompts(pair, vocab_size)
        rates: dict[Contender, float] = {}
        for contender in (old, new) if pair % 2 else (new, old):
            with contender.turn():
                rates[contender] = batch.rate(contender.generate(prompts, batch.new_tokens))
        if pair:
            ratios.append(rates[new] / rates[old])
    return ratios


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of at least two ratios, and the ends of its 95 % interval."""
    logarithms = [math.log(ratio) for ratio in ratios]
    mean, error = statistics.fmean(logarithms), stats.sem(logarithms)
    low, high = stats.t.interval(0.95, len(logarithms) - 1, mean, error)
    return math.exp(mean), math.exp(low), math.exp(high)


def _parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("checkouts", __doc__)
    add_model(parser)
    add_json(parser)
    add = parser.add_argument
    add("checkout", type=_checkout, help="folder of the other checkout")
    add("--cases", nargs="+", default=["*"], metavar="NAME", help="those whose name begins so")
    add("--pairs", type=int, default=12, help="(%(default)s)")
    add("--format", choices=WEIGHT_FORMATS, default="bf16", help="of weights (%(default)s)")
    args = parser.parse_args(argv)
    if args.pairs < 2:
        parser.error("an interval takes at least 2 pairs")
    return args


def _checkout(text: str) -> Path:
    folder = Path(text).resolve()
    if not (folder / "benchmarks" / "peers" / "worker.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of FolovLLM")
    return folder
