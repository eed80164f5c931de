"""Decode steps over KV caches that would take minutes to fill by prefill: long and ragged contexts.

The runner is built as the engine builds it, with one block of computed KV copied to all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness.turns import take_turns
from engine_service.config import (
    CPU_BLOCK_SIZE,
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
)
from engine_service.core.outputs import ModelRunner, ScheduledSequence, SchedulerOutput
from engine_service.runner.build import build_runner
from folovllm.sampling_params import SamplingParams

_BLOCK_SIZE = CPU_BLOCK_SIZE
_GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True)
class StepCase:
    """A decode step: for each sequence the tokens that it has with the one that is computed."""

    name: str
    context_lengths: tuple[int, ...]
    beside: str = ""
    """Name of the case that it is compared with, if there is one."""

    @property
    def group(self) -> str:
        """Name of the case in whose group of lines it stands."""
        return self.beside or self.name

    @property
    def num_blocks(self) -> int:
        """KV blocks that it takes."""
        return sum(map(_blocks, self.context_lengths))

    def step(self) -> SchedulerOutput:
        """The step, greedy, every sequence with blocks of its own."""
        scheduled, first_block = [], 0
        for row, length in enumerate(self.context_lengths):
            blocks = range(first_block, first_block + _blocks(length))
            first_block = blocks.stop
            scheduled.append(_scheduled(row, 1, length - 1, blocks))
        return SchedulerOutput(tuple(scheduled))


def ragged(batch: int, shortest: int, longest: int) -> tuple[StepCase, StepCase]:
    """Lengths spread evenly from shortest to longest, and as many sequences of their mean length.

    Both have the same number of keys, to within one a sequence.
    """
    span = longest - shortest
    lengths = tuple(shortest + round(span * row / (batch - 1)) for row in range(batch))
    mean = round(sum(lengths) / batch)
    name = f"ragged {batch} x {shortest} to {longest}"
    uniform = StepCase(f"uniform {batch} x {mean}", (mean,) * batch, beside=name)
    return StepCase(name, lengths), uniform


def time_steps(
    folder: Path, quantization: str, cases: Sequence[StepCase], threads: int, turns: int
) -> dict[str, tuple[float, ...]]:
    """Milliseconds of each turn by the cases' names, taken in turn.

    Sets the number of torch's threads of this process.
    """
    torch.set_num_threads(threads)
    num_blocks = max(case.num_blocks for case in cases)
    longest = max(length for case in cases for length in case.context_lengths)
    scheduler = SchedulerConfig(max_num_seqs=max(len(case.context_lengths) for case in cases))
    config = EngineConfig(
        ModelConfig(str(folder), max_model_len=longest, quantization=quantization),
        CacheConfig(_BLOCK_SIZE, num_blocks),
        scheduler,
    )
    runner = build_runner(config, folder, show_progress=False).runner
    _fill(runner, num_blocks)
    works = {case.name: partial(runner.execute, case.step()) for case in cases}
    return {name: times.walls for name, times in take_turns(works, turns).items()}


def _fill(runner: ModelRunner, num_blocks: int) -> None:
    """Memory that was never written may hold NaN, and is not there until it is touched."""
    first = _scheduled(0, _BLOCK_SIZE, 0, range(1))
    copies = tuple((0, block_id) for block_id in range(1, num_blocks))
    runner.execute(SchedulerOutput((first,)))
    runner.execute(SchedulerOutput((), copies))


def _scheduled(
    row: int, num_tokens: int, num_computed_tokens: int, blocks: range
) -> ScheduledSequence:
    return ScheduledSequence(
        seq_id=row,
        token_ids=[1] * num_tokens,
        num_computed_tokens=num_computed_tokens,
        block_table=blocks,
        sampling_params=_GREEDY,
        seed=0,
        sample_indexes=(0,),
    )


def _blocks(num_tokens: int) -> int:
    return -(-num_tokens // _BLOCK_SIZE)
