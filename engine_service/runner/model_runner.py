"""TorchModelRunner: computes a scheduled step with a Decoder and draws its tokens."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine_service.core.outputs import ModelRunnerOutput, ScheduledSequence, SchedulerOutput
from engine_service.models.causal_model import CausalModel
from engine_service.runner.input_batch import build_input_batch
from engine_service.runner.kv_cache import allocate_kv_caches, copy_blocks
from engine_service.runner.sampling.grammar_masks import GrammarMasks
from engine_service.runner.sampling.logprobs import position_logprobs
from engine_service.runner.sampling.prompt_logprobs import prompt_logprobs
from engine_service.runner.sampling.sampler import Argmax, sample
from folovllm.logprobs import PositionLogprobs


class TorchModelRunner:
    """The ModelRunner of a real model; owns its KV pool of `num_blocks` blocks.

    All calls must come from one thread at a time.
    """

    def __init__(self, model: CausalModel, num_blocks: int, block_size: int) -> None:
        self.model = model
        self._block_size = block_size
        self._kv_caches = allocate_kv_caches(model, num_blocks, block_size)
        self._grammar_masks = GrammarMasks(model.config.vocab_size)

    @torch.inference_mode()
    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        """See ModelRunner. Raises ServerError if logits are not finite.

        Logits are computed only for the rows that draw, and for prompts' log-probabilities.
        """
        copy_blocks(self._kv_caches, output.block_copies)
        drawn: list[list[int]] = [[] for _ in output.scheduled]
        if not output.scheduled:
            return ModelRunnerOutput(drawn)
        batch = build_input_batch(output.scheduled, self._block_size, self.model.device)
        scores = any(sequence.prompt_logprob_positions for sequence in output.scheduled)
        hidden = self.model(
            batch.input_ids,
            batch.positions,
            self._kv_caches,
            batch.metadata,
            None if scores else batch.sampled_rows,
        )
        logprobs: dict[int, list[PositionLogprobs]] = {}
        if batch.sampled:
            logits = self.model.compute_logits(hidden, batch.sampled_rows)
            draws = [(i, draw) for i in batch.sampled for draw in output.scheduled[i].draws()]
            sequences = [draw for _, draw in draws]
            masks = self._grammar_masks.fill(sequences)
            token_ids, positions = _draw(logits, sequences, masks, self.model.argmax)
            for row, (i, _) in enumerate(draws):
                drawn[i] += token_ids[row]
                if row in positions:
                    logprobs.setdefault(i, []).extend(positions[row])
        return ModelRunnerOutput(
            drawn, logprobs, prompt_logprobs(self.model, hidden, batch.first_rows, output.scheduled)
        )


def _draw(
    logits: Tensor,
    sequences: Sequence[ScheduledSequence],
    grammar_masks: Mapping[int, Tensor],
    argmax: Argmax,
) -> tuple[list[list[int]], dict[int, list[PositionLogprobs]]]:
    """What `sample` draws, and its log-probabilities for the rows that ask for them."""
    num_tops = {
        row: sequence.sampling_params.logprobs
        for row, sequence in enumerate(sequences)
        if sequence.sampling_params.logprobs is not None
    }
    if not num_tops:
        return sample(logits, sequences, grammar_masks, argmax), {}
    rows = list(num_tops)
    raw = logits[rows]  # a copy: drawing overwrites the logits
    token_ids = sample(logits, sequences, grammar_masks, argmax)
    found = position_logprobs(raw, [token_ids[row] for row in rows], list(num_tops.values()))
    return token_ids, dict(zip(rows, found, strict=True))
