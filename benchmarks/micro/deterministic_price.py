"""What `deterministic` costs: the time of a step with and without it, on a random model.

    python -m benchmarks.micro.deterministic_price --layers 4 --dtype bfloat16

The defaults are the shape of Qwen3-0.6B. Each case is one step of the model runner, greedy, its KV
in the cache; the table shows the median of the repeats.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from functools import partial

import torch

from benchmarks.harness.random_decoder import (
    Case,
    add_options,
    decoder_config,
    filled_runner,
    random_decoder,
)
from benchmarks.harness.turns import take_turns
from engine_service.device import resolve_device
from engine_service.runner.model_runner import TorchModelRunner


@dataclass(frozen=True, slots=True)
class Price:
    """Milliseconds of a step, and their quotient."""

    case: str
    default_ms: float
    deterministic_ms: float
    ratio: float


def main() -> None:
    """Prints the table, or JSON."""
    args = _parse_args()
    torch.set_num_threads(args.threads)
    cases = _cases(args.context, args.prompt)
    runners = _runners(args, cases)
    prices = [_price(case, *runners, args.repeats) for case in cases]
    if args.json:
        print(json.dumps([asdict(price) for price in prices]))
        return
    print(f"{'step':<32}{'default ms':>12}{'deterministic ms':>18}{'ratio':>8}")
    for each in prices:
        times = f"{each.default_ms:>12.1f}{each.deterministic_ms:>18.1f}"
        print(f"{each.case:<32}{times}{each.ratio:>8.2f}")


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser)
    parser.add_argument("--context", type=int, default=512, help="tokens that a decode looks at")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prefill")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _cases(context: int, prompt: int) -> list[Case]:
    return [
        *(Case(f"decode {n} x {context}", n, context - 1, 1) for n in (1, 16, 64)),
        Case(f"prefill {prompt}", 1, 0, prompt),
    ]


def _runners(
    args: argparse.Namespace, cases: list[Case]
) -> tuple[TorchModelRunner, TorchModelRunner]:
    """Without and with determinism."""
    config = decoder_config(args, max_model_len=max(args.context, args.prompt))
    num_blocks = max(case.num_blocks for case in cases)
    default, fixed = (
        random_decoder(config, args.dtype, resolve_device(args.device), deterministic)
        for deterministic in (False, True)
    )
    return filled_runner(default, num_blocks), filled_runner(fixed, num_blocks)


def _price(
    case: Case, default: TorchModelRunner, deterministic: TorchModelRunner, repeats: int
) -> Price:
    step = case.step()
    works = {
        "default": partial(default.execute, step),
        "deterministic": partial(deterministic.execute, step),
    }
    times = take_turns(works, repeats)
    without, with_it = times["default"].wall, times["deterministic"].wall
    return Price(case.name, without, with_it, with_it / without)


if __name__ == "__main__":
    main()
