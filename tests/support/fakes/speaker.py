"""Speaker: a model that says the same again and again, whatever its prompt, each index its own."""

import time
from collections.abc import Sequence

from engine_service.core.outputs import ModelRunnerOutput, ScheduledSequence, SchedulerOutput
from support.fakes.model_runner import FakeModelRunner


class Speaker(FakeModelRunner):
    """Says the first of `lines`, which are token ids, at index 0, the second at 1 and so on."""

    def __init__(self, block_size: int, vocab_size: int, lines: Sequence[Sequence[int]]) -> None:
        super().__init__(block_size, vocab_size)
        self._lines = lines
        self.step_seconds = 0.0
        """How long a step takes at least: what reads its tokens keeps up with slow ones."""

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        if self.step_seconds:
            time.sleep(self.step_seconds)
        return super().execute(output)

    def _draw(self, kv: int, draw: ScheduledSequence) -> list[int]:
        done = draw.num_tokens - draw.num_prompt_tokens
        lines = [self._lines[index % len(self._lines)] for index in draw.sample_indexes]
        return [line[done % len(line)] for line in lines]
