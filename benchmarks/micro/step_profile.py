"""Where a decode step of the engine spends its time, by part.

    python -m benchmarks.micro.step_profile [--formats bf16 int8] [--batches 1 8 32]

The engine is stepped as it is, with its parts timed from outside; the CPU kernels, which compute
all layers in one call, count their own. To them norms are part of the linear layers, and rotary
positions and the writing of KV of attention. What is in neither is what the engine costs beside the
model's arithmetic.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.cpu.cases import Case
from benchmarks.harness import machine
from benchmarks.harness.apart import apart
from benchmarks.harness.columns import number, share, text_table
from benchmarks.harness.random_checkpoint import MODELS, checkpoint, default_cache
from benchmarks.micro.part_timer import PartTimer, Place
from benchmarks.peers.folovllm_engine import greedy, quantization
from engine_service.config import (
    CPU_BLOCK_SIZE,
    QUANTIZATIONS,
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
)
from engine_service.core.request import Request
from engine_service.core.scheduler import Scheduler
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from engine_service.layers.attention.choice import choose_backend
from engine_service.layers.linear.linear import Linear
from engine_service.models.cpu_decoder import CpuDecoder
from engine_service.models.torch_decoder import TorchDecoder
from engine_service.runner import model_runner

LINEARS, ATTENTION, REST = "linears", "attention", "norms, rotary, additions, rest"
_INPUT, _SAMPLING, _SCHEDULING = "input batch, attention's plan", "sampling", "scheduling"
_KV_WRITE = "writing of KV"
PARTS = (LINEARS, ATTENTION, _KV_WRITE, _INPUT, _SAMPLING, _SCHEDULING, REST)
_WARM_UP_STEPS = 2

Profile = dict[str, float]
"""Milliseconds by part; medians over the steps."""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each weight format."""
    args = _parse_args(argv)
    folder = checkpoint(args.model, args.cache)
    print(f"{args.model}, {args.threads} threads of {machine.describe()}")
    for weight_format in args.formats:
        cases = [Case("decode", batch, args.context, args.steps) for batch in args.batches]
        profiles = apart(profile_steps, folder, weight_format, cases, args.threads)
        print(f"\n{_table(weight_format, cases, profiles)}")


def profile_steps(
    folder: Path, weight_format: str, cases: Sequence[Case], threads: int
) -> list[Profile]:
    """Of the decode steps of each case; sets the number of torch's threads of this process."""
    torch.set_num_threads(threads)
    block_size = CPU_BLOCK_SIZE
    blocks = max(case.batch * (case.kv_tokens // case.batch // block_size + 2) for case in cases)
    engine = build_engine(
        EngineConfig(
            ModelConfig(str(folder), quantization=quantization(weight_format)),
            CacheConfig(block_size, blocks),
            SchedulerConfig(
                max_num_seqs=max(case.batch for case in cases),
                speculation="none",  # a step of several tokens would be another step
            ),
        )
    )
    engine.warm_up()
    timer = PartTimer()
    with timer.watching(_places()), _counting_kernels() as kernels:
        return [_profile_case(engine, case, timer, kernels) for case in cases]


def _profile_case(
    engine: LLMEngine, case: Case, timer: PartTimer, kernels: Callable[[], Profile]
) -> Profile:
    for place, prompt in enumerate(case.prompts(0, engine.info.vocab_size)):
        engine.add_request(Request(str(place), prompt, greedy(case.new_tokens), seed=0))
    steps, decoding = [], set[str]()
    while engine.has_unfinished_requests():
        timer.take()
        started = time.perf_counter()
        outputs = engine.step()
        whole = time.perf_counter() - started
        parts = dict(Counter(timer.take()) + Counter(kernels()))
        # Sequences that began early leave smaller batches to the last steps.
        if len(decoding) == len(outputs) == case.batch:
            steps.append(parts | {REST: whole - sum(parts.values())})
        decoding |= {output.request_id for output in outputs}
    counted = steps[_WARM_UP_STEPS:]
    return {
        part: statistics.median(step.get(part, 0.0) for step in counted) * 1e3 for part in PARTS
    }


@contextmanager
def _counting_kernels() -> Iterator[Callable[[], Profile]]:
    """Gives a function for the seconds that the CPU kernels counted in their latest step."""
    latest = Profile()
    compute = CpuDecoder.__call__

    def counted(model: CpuDecoder, *args: Any) -> Tensor:
        hidden = compute(model, *args)
        elapsed = model.elapsed
        latest.update({LINEARS: elapsed.linears * 1e-9, ATTENTION: elapsed.attention * 1e-9})
        return hidden

    with mock.patch.object(CpuDecoder, "__call__", counted):
        yield lambda: latest


def _places() -> list[Place]:
    backend = type(choose_backend(torch.device("cpu")))
    places = [
        Place(LINEARS, Linear, "forward"),
        Place(LINEARS, TorchDecoder, "compute_logits"),  # a tied output layer that is no Linear
        Place(LINEARS, CpuDecoder, "compute_logits"),
        Place(ATTENTION, backend, "forward"),
        Place(_KV_WRITE, backend, "write"),
        Place(_INPUT, backend, "plan"),
        Place(_INPUT, model_runner, "build_input_batch"),
        Place(_SAMPLING, model_runner, "sample"),
        Place(_SCHEDULING, Scheduler, "schedule"),
        Place(_SCHEDULING, Scheduler, "update_from_output"),
    ]
    # A backend may write within `forward`.
    return [place for place in places if hasattr(place.owner, place.name)]


def _table(weight_format: str, cases: Sequence[Case], profiles: Sequence[Profile]) -> str:
    totals = [sum(profile.values()) for profile in profiles]
    beside = [
        total - profile[LINEARS] - profile[ATTENTION]
        for total, profile in zip(totals, profiles, strict=True)
    ]
    rows = [
        (name, *_cells(values, totals))
        for name, values in (
            *((part, [profile[part] for profile in profiles]) for part in PARTS),
            ("neither linears nor attention", beside),
            ("step", totals),
        )
    ]
    columns = [cell for case in cases for cell in (f"{case.batch} x {case.prompt_tokens}, ms", "")]
    return text_table((f"decode, {weight_format}", *columns), rows, names=1)


def _cells(values: Sequence[float], totals: Sequence[float]) -> list[str]:
    pairs = zip(values, totals, strict=True)
    return [cell for value, total in pairs for cell in (number(value), share(value / total))]


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.micro.step_profile", description=_first_line())
    add = parser.add_argument
    add("--model", choices=MODELS, default="qwen3-0.6b", help="shape of the weights (%(default)s)")
    add(
        "--formats",
        nargs="+",
        default=["bf16"],
        choices=("bf16", *QUANTIZATIONS[1:]),
        metavar="FORMAT",
        help="of the weights (bf16)",
    )
    add("--batches", nargs="+", type=int, default=[1, 8, 32], help="sequences (1 8 32)")
    add("--context", type=int, default=128, help="tokens of each prompt (%(default)s)")
    add("--steps", type=int, default=32, help="of each batch (%(default)s)")
    add("--threads", type=int, default=torch.get_num_threads(), help="(%(default)s)")
    add("--cache", type=Path, default=default_cache(), help="folder of checkpoints (%(default)s)")
    return parser.parse_args(argv)


def _first_line() -> str:
    return (__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    main()
