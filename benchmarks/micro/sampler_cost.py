"""What drawing tokens costs beside the model: batches of different wishes against a decode step.

    python -m benchmarks.micro.sampler_cost

Times in turn, in one process: a greedy decode step of the model runner on random weights, of
Qwen3-0.6B's shape by default; and drawing one token for each row of logits of that vocabulary, with
log-probabilities where a row asks for them. A share is the drawing's time over the step's. Where
`--layers` are fewer than Qwen3-0.6B has, the layers' part of the step is scaled up to as many.

The logits are normal numbers of deviation 4. As with a trained model the first thousand tokens
hold nearly all the mass; flatter ones would make top_p sort whole rows.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import machine
from benchmarks.harness.random_decoder import (
    QWEN3_0_6B,
    Case,
    add_options,
    decoder_config,
    filled_runner,
    random_decoder,
)
from benchmarks.harness.turns import Milliseconds, take_turns
from benchmarks.micro.sampling_batches import sampling_batches
from engine_service.core.outputs import ScheduledSequence
from engine_service.device import resolve_device
from engine_service.runner.sampling.logprobs import position_logprobs
from engine_service.runner.sampling.sampler import sample

_STEP = "greedy step"
_HEAD = "its logits alone"
_LARGEST = "largest of each row alone"
_LAYERS = QWEN3_0_6B["layers"]
_DEVIATION = 4.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of some work, and their share of the step, by the clock and of the processor."""

    work: str
    wall_ms: float
    cpu_ms: float
    wall_share: float
    cpu_share: float


@torch.inference_mode()
def main() -> None:
    """Prints the table, or JSON."""
    args = _parse_args()
    torch.set_num_threads(args.threads)
    costs = _costs(_measure(args), args.layers)
    if args.json:
        print(json.dumps([asdict(cost) for cost in costs]))
        return
    print(f"{machine.describe()}, {args.threads} threads")
    scaled = f"; {args.layers} layers scaled to {_LAYERS}" if args.layers < _LAYERS else ""
    print(f"{args.dtype}, {args.sequences} sequences of {args.context} tokens{scaled}\n")
    print(f"{'':<28}{'wall ms':>10}{'cpu ms':>10}{'wall share':>12}{'cpu share':>12}")
    for cost in costs:
        times = f"{cost.wall_ms:>10.1f}{cost.cpu_ms:>10.1f}"
        print(f"{cost.work:<28}{times}{cost.wall_share:>12.1%}{cost.cpu_share:>12.1%}")


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser)
    parser.add_argument("--sequences", type=int, default=64, help="of the batch (%(default)s)")
    parser.add_argument("--context", type=int, default=128, help="tokens of each (%(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each (%(default)s)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _measure(args: argparse.Namespace) -> dict[str, Milliseconds]:
    config = decoder_config(args, max_model_len=args.context)
    decoder = random_decoder(config, args.dtype, resolve_device(args.device))
    case = Case("decode", args.sequences, args.context - 1, 1)
    runner = filled_runner(decoder, case.num_blocks)
    hidden = torch.randn(args.sequences, args.hidden_size).to(decoder.device, decoder.dtype)
    logits = torch.randn(args.sequences, args.vocab_size).mul_(_DEVIATION)
    logits = logits.to(decoder.device, decoder.dtype)
    drawn_from = torch.empty_like(logits)
    batches = sampling_batches(args.sequences, args.context, args.vocab_size)
    works: dict[str, Callable[[], object]] = {
        _STEP: partial(runner.execute, case.step()),
        _HEAD: lambda: decoder.compute_logits(hidden)[0, 0].item(),
        _LARGEST: lambda: drawn_from.max(dim=-1).indices.tolist(),
    }
    for name, sequences in batches.items():
        works[name] = partial(_draw, drawn_from, sequences)
    # Drawing may overwrite the logits.
    return take_turns(works, args.repeats, prepare=lambda: drawn_from.copy_(logits))


def _draw(logits: Tensor, sequences: Sequence[ScheduledSequence]) -> None:
    """What the model runner does with logits; either all rows want log-probabilities or none."""
    params = [sequence.sampling_params for sequence in sequences]
    num_tops = [p.logprobs for p in params if p.logprobs is not None]
    raw = logits.clone() if num_tops else logits
    token_ids = sample(logits, sequences)
    if num_tops:
        position_logprobs(raw, token_ids, num_tops)


def _costs(times: dict[str, Milliseconds], layers: int) -> list[Cost]:
    """All but the step are left as they are; it gets the time of the layers that were left out."""
    step, head = times[_STEP], times[_HEAD]
    missing = max(0, _LAYERS - layers) / layers
    wall = step.wall + missing * (step.wall - head.wall)
    cpu = step.cpu + missing * (step.cpu - head.cpu)
    scaled = times | {_STEP: Milliseconds(wall, cpu)}
    return [Cost(name, t.wall, t.cpu, t.wall / wall, t.cpu / cpu) for name, t in scaled.items()]


if __name__ == "__main__":
    main()
