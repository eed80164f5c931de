"""ShortContexts: a model runner for which every context is short, however long the engine's is.

So an engine's steps can be measured after any history without the memory and the time of its KV.
"""

from collections.abc import Sequence
from dataclasses import replace

from engine_service.core.outputs import (
    ModelRunner,
    ModelRunnerOutput,
    ScheduledSequence,
    SchedulerOutput,
)

CONTEXT = 128
"""Tokens that a sequence attends to at most; more in one step are left out but the last."""


class ShortContexts:
    """Hands steps on to a runner whose pool has `num_blocks` blocks for each of `max_num_seqs`."""

    def __init__(self, runner: ModelRunner, max_num_seqs: int, block_size: int) -> None:
        self._runner = runner
        width = self.num_blocks(block_size)
        self._tables = [range(row * width, (row + 1) * width) for row in range(max_num_seqs)]

    @staticmethod
    def num_blocks(block_size: int) -> int:
        """Blocks that one sequence needs."""
        return -(-2 * CONTEXT // block_size)

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        """Computes those that draw, or have log-probabilities of their prompt; the others not."""
        asked = [
            i
            for i, part in enumerate(output.scheduled)
            if part.sample_indexes or part.prompt_logprob_positions
        ]
        parts = [
            _shortened(output.scheduled[i], table)
            for i, table in zip(asked, self._tables, strict=False)
        ]
        found = self._runner.execute(SchedulerOutput(tuple(parts)))
        drawn: list[Sequence[int]] = [() for _ in output.scheduled]
        for i, token_ids in zip(asked, found.sampled_token_ids, strict=True):
            drawn[i] = token_ids
        return ModelRunnerOutput(
            drawn,
            {asked[i]: each for i, each in found.logprobs.items()},
            {asked[i]: each for i, each in found.prompt_logprobs.items()},
            {asked[i]: each for i, each in found.failures.items()},
        )


def _shortened(part: ScheduledSequence, block_table: Sequence[int]) -> ScheduledSequence:
    start, token_ids = part.num_computed_tokens, part.token_ids
    if len(token_ids) > CONTEXT:
        start, token_ids = start + len(token_ids) - 1, token_ids[-1:]
    return replace(
        part,
        token_ids=token_ids,
        num_computed_tokens=min(start, CONTEXT),
        block_table=block_table,
    )
