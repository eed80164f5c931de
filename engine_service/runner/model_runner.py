"""TorchModelRunner: computes a scheduled step with a Decoder and draws its tokens."""

import torch

from engine_service.core.outputs import ModelRunnerOutput, SchedulerOutput
from engine_service.models.qwen3 import Decoder
from engine_service.runner.input_batch import build_input_batch
from engine_service.runner.kv_cache import allocate_kv_caches, copy_blocks
from engine_service.runner.sampler import sample


class TorchModelRunner:
    """The ModelRunner of a real model; owns its KV pool of `num_blocks` blocks.

    All calls must come from one thread at a time.
    """

    def __init__(self, model: Decoder, num_blocks: int, block_size: int) -> None:
        self.model = model
        self._block_size = block_size
        self._kv_caches = allocate_kv_caches(model, num_blocks, block_size)

    @torch.inference_mode()
    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        """Runs the batch, writes its KV and draws the tokens that are asked for.

        Logits are computed for the rows that draw only. Raises ServerError where they are not
        numbers.
        """
        copy_blocks(self._kv_caches, output.block_copies)
        drawn: list[list[int]] = [[] for _ in output.scheduled]
        if not output.scheduled:
            return ModelRunnerOutput(drawn)
        batch = build_input_batch(output.scheduled, self._block_size, self.model.device)
        hidden = self.model(batch.input_ids, batch.positions, self._kv_caches, batch.metadata)
        if batch.sampled:
            logits = self.model.compute_logits(hidden[batch.sampled_rows])
            sequences = [output.scheduled[i] for i in batch.sampled]
            for i, token_ids in zip(batch.sampled, sample(logits, sequences), strict=True):
                drawn[i] = token_ids
        return ModelRunnerOutput(drawn)
