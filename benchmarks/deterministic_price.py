"""What `deterministic` costs: the time of a step with and without it, on a random model.

    python -m benchmarks.deterministic_price --layers 4 --dtype bfloat16

The defaults are the shape of Qwen3-0.6B. Both decoders share their weights. Each case is one step
of the model runner, greedy, its KV in the cache; the table shows the median of the repeats.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from engine_service.core.outputs import ScheduledSequence, SchedulerOutput
from engine_service.device import resolve_device
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import make_decoder
from engine_service.runner.model_runner import TorchModelRunner
from folovllm.sampling_params import SamplingParams

_BLOCK_SIZE = 16
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "layers": 28,
    "heads": 16,
    "kv_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A step: so many sequences, each with `computed` tokens in the cache and `new` to compute."""

    name: str
    sequences: int
    computed: int
    new: int


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
    device = resolve_device(args.device)
    cases = _cases(args.context, args.prompt)
    runners = _runners(_decoder_config(args), _DTYPES[args.dtype], device, cases)
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
    for name, value in _SHAPE.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--dtype", choices=_DTYPES, default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
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


def _decoder_config(args: argparse.Namespace) -> DecoderConfig:
    values = {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": args.vocab_size,
        "hidden_size": args.hidden_size,
        "intermediate_size": args.intermediate_size,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "head_dim": args.head_dim,
        "max_position_embeddings": max(args.context, args.prompt),
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": args.dtype,
        "eos_token_id": 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(values))
        return DecoderConfig.from_folder(Path(folder))


def _runners(
    config: DecoderConfig, dtype: torch.dtype, device: torch.device, cases: list[Case]
) -> tuple[TorchModelRunner, TorchModelRunner]:
    """Without and with determinism, on the same random weights."""
    default = make_decoder(config, dtype, device, deterministic=False)
    default.allocate()
    for parameter in default.parameters():
        parameter.normal_(std=0.02)
    fixed = make_decoder(config, dtype, device, deterministic=True)
    fixed.load_state_dict(default.state_dict(), assign=True)
    num_blocks = max(case.sequences * _blocks(case) for case in cases)
    without, with_it = (TorchModelRunner(m, num_blocks, _BLOCK_SIZE) for m in (default, fixed))
    for runner in (without, with_it):
        _fill(runner, num_blocks)
    return without, with_it


def _fill(runner: TorchModelRunner, num_blocks: int) -> None:
    """Computes one block of KV and copies it to all: memory that was never written may be NaN."""
    first = _scheduled(Case("first block", 1, 0, _BLOCK_SIZE), 0)
    copies = tuple((0, block_id) for block_id in range(1, num_blocks))
    runner.execute(SchedulerOutput((first,)))
    runner.execute(SchedulerOutput((), copies))


def _blocks(case: Case) -> int:
    return -(-(case.computed + case.new) // _BLOCK_SIZE)


def _price(
    case: Case, default: TorchModelRunner, deterministic: TorchModelRunner, repeats: int
) -> Price:
    """Steps both in turn, so that what else the machine does meets both; once to warm up."""
    step = SchedulerOutput(tuple(_scheduled(case, row) for row in range(case.sequences)))
    times: dict[TorchModelRunner, list[float]] = {default: [], deterministic: []}
    for _ in range(repeats + 1):
        for runner, measured in times.items():
            measured.append(_milliseconds(partial(runner.execute, step)))
    without, with_it = (statistics.median(each[1:]) for each in times.values())
    return Price(case.name, without, with_it, with_it / without)


def _scheduled(case: Case, row: int) -> ScheduledSequence:
    blocks = _blocks(case)
    return ScheduledSequence(
        seq_id=row,
        token_ids=[1] * case.new,
        num_computed_tokens=case.computed,
        block_table=range(row * blocks, (row + 1) * blocks),
        sampling_params=SamplingParams(temperature=0.0),
        seed=0,
        sample_indexes=(0,),
    )


def _milliseconds(work: Callable[[], object]) -> float:
    """The drawn ids reach the host within `work`, so that a GPU has finished too."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    main()
