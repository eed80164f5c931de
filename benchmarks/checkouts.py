"""This checkout's engine and services beside those of another checkout, in turns.

    git worktree add ../before main~20
    python -m benchmarks.checkouts ../before [--cases decode throughput] [--pairs 12]

Both run in this environment on the same weights and the same prompts: decoding in the engine alone,
throughput through both services. Each pair is one turn of each, every second pair in the other
order, so that neither gains by what the machine does meanwhile. Printed is the mean ratio of new
over old, as the mean of the pairs' logarithms, and its 95 % interval by Student's t.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from scipy import stats

from benchmarks.cpu.cases import DECODE, THROUGHPUT, Case
from benchmarks.harness import machine
from benchmarks.harness.model_shape import ModelShape
from benchmarks.harness.random_checkpoint import MODELS, checkpoint, default_cache
from benchmarks.peers.contender import Contender
from benchmarks.peers.contender_name import ContenderName
from benchmarks.peers.peer import PeerConfig
from folovllm.errors import FolovError

_HERE = Path(__file__).parents[1]
_CASES = {"folovllm": DECODE, "services": (THROUGHPUT,)}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each case."""
    args = _parse_args(argv)
    known = [case for cases in _CASES.values() for case in cases]
    for pattern in args.cases:
        if not any(_fits(case, pattern) for case in known):
            names = ", ".join(case.name for case in known)
            sys.exit(f"error: no case's name begins with {pattern!r}; there are {names}")
    folder = checkpoint(args.model, args.cache)
    config = PeerConfig(
        model=str(folder),
        weight_format=args.format,
        cache=str(args.cache),
        threads=args.threads,
        max_num_seqs=32,
        max_model_len=576,
        kv_tokens=8192,
    )
    print(f"{machine.describe()}; {args.model}, {args.format}; {_HERE} over {args.checkout}")
    try:
        for name, cases in _CASES.items():
            chosen = [case for case in cases if any(_fits(case, each) for each in args.cases)]
            if chosen:
                _compare(ContenderName(name, args.format), config, chosen, args)
    except FolovError as error:
        sys.exit(f"error: {error}")


def _compare(
    name: ContenderName, config: PeerConfig, cases: Sequence[Case], args: argparse.Namespace
) -> None:
    vocab_size = ModelShape.from_folder(Path(config.model)).vocab_size
    with ExitStack() as stack:
        old, new = (
            stack.enter_context(Contender(name, config, sys.executable, checkout))
            for checkout in (args.checkout, _HERE)
        )
        for case in cases:
            ratios = ratios_of_pairs(case, old, new, args.pairs, vocab_size)
            mean, low, high = interval(ratios)
            print(
                f"{name} {case.name}: {mean:.3f} (95 %: {low:.3f} to {high:.3f}), "
                f"{len(ratios)} pairs",
                flush=True,
            )


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
    middle = statistics.fmean(logarithms)
    error = statistics.stdev(logarithms) / math.sqrt(len(logarithms))
    reach = float(stats.t.ppf(0.975, len(logarithms) - 1)) * error
    return math.exp(middle), math.exp(middle - reach), math.exp(middle + reach)


def _fits(case: Case, pattern: str) -> bool:
    return fnmatchcase(case.name, f"{pattern}*")


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.checkouts", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("checkout", type=_checkout, help="folder of the other checkout")
    add("--cases", nargs="+", default=["*"], metavar="NAME", help="those whose names begin so")
    add("--pairs", type=_at_least_two, default=12, help="(%(default)s)")
    add("--model", choices=MODELS, default="qwen3-0.6b", help="(%(default)s)")
    add("--format", choices=("bf16", "int8", "int4"), default="bf16", help="(%(default)s)")
    add("--threads", type=int, default=torch.get_num_threads(), help="(%(default)s)")
    add("--cache", type=Path, default=default_cache(), help="folder of checkpoints (%(default)s)")
    return parser.parse_args(argv)


def _checkout(text: str) -> Path:
    folder = Path(text).resolve()
    if not (folder / "benchmarks" / "peers" / "worker.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of FolovLLM")
    return folder


def _at_least_two(text: str) -> int:
    if not text.isdigit() or int(text) < 2:
        raise argparse.ArgumentTypeError("an interval takes at least 2 pairs")
    return int(text)


if __name__ == "__main__":
    main()
