"""TorchModelRunner: computes a scheduled step with a Decoder and draws its tokens."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine_service.core.outputs import ModelRunnerOutput, ScheduledSequence, SchedulerOutput
from engine_service.models.causal_model import CausalModel
from engine_service.runner.input_batch import InputBatch, build_input_batch
from engine_service.runner.kv_cache import allocate_kv_caches, copy_blocks
from engine_service.runner.sampling.grammar_masks import GrammarMasks
from engine_service.runner.sampling.logprobs import position_logprobs
from engine_service.runner.sampling.not_finite import not_finite
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
        """See ModelRunner. What one sequence raises, and logits that are not finite, are failures.

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
            None if scores else _output_rows(batch),
        )
        failures = _failed_chunks(hidden, batch, output.scheduled)
        logprobs: dict[int, list[PositionLogprobs]] = {}
        if batch.sampled:
            draws = [(i, draw) for i in batch.sampled for draw in output.scheduled[i].draws()]
            rows = self._draw(hidden, batch.sampled_rows, [draw for _, draw in draws])
            for (i, _), token_ids in zip(draws, rows.token_ids, strict=True):
                drawn[i] += token_ids
            for row, positions in rows.logprobs.items():
                logprobs.setdefault(draws[row][0], []).extend(positions)
            for row, error in rows.failures.items():
                failures.setdefault(draws[row][0], error)
        prompts, failed = prompt_logprobs(self.model, hidden, batch.first_rows, output.scheduled)
        return ModelRunnerOutput(drawn, logprobs, prompts, failures | failed)

    def _draw(
        self, hidden: Tensor, rows: Tensor, sequences: Sequence[ScheduledSequence]
    ) -> "_Draws":
        """What each row draws, or the error that it raises by itself."""
        try:
            logits = self.model.compute_logits(hidden, rows)
            masks = self._grammar_masks.fill(sequences)
            return _draw(logits, sequences, masks, self.model.argmax)
        except Exception as error:
            if len(sequences) == 1:
                return _Draws([[]], {}, {0: error})
        draws = _Draws([], {}, {})
        for row, sequence in enumerate(sequences):
            token_ids, logprobs, failures = self._draw(hidden, rows[row : row + 1], [sequence])
            draws.token_ids.extend(token_ids)
            draws.logprobs.update((row, each) for each in logprobs.values())
            draws.failures.update((row, each) for each in failures.values())
        return draws


class _Draws(NamedTuple):
    """What rows draw."""

    token_ids: list[list[int]]
    logprobs: dict[int, list[PositionLogprobs]]
    """Of the rows that ask for them."""
    failures: dict[int, Exception]
    """Of the rows that draw nothing."""


def _output_rows(batch: InputBatch) -> Tensor:
    """The rows whose hidden states are looked at."""
    if not batch.last_rows:
        return batch.sampled_rows
    last = batch.sampled_rows.new_tensor([row for _, row in batch.last_rows])
    return torch.cat((batch.sampled_rows, last)).sort().values


def _failed_chunks(
    hidden: Tensor, batch: InputBatch, scheduled: Sequence[ScheduledSequence]
) -> dict[int, Exception]:
    """The errors of sequences that draw nothing, whose KV would enter the prefix cache unseen.

    The last token of each has read all of it.
    """
    if not batch.last_rows:
        return {}
    finite = hidden[[row for _, row in batch.last_rows]].isfinite().all(-1).tolist()
    return {
        i: not_finite(scheduled[i].num_tokens)
        for (i, _), is_finite in zip(batch.last_rows, finite, strict=True)
        if not is_finite
    }


def _draw(
    logits: Tensor,
    sequences: Sequence[ScheduledSequence],
    grammar_masks: Mapping[int, Tensor],
    argmax: Argmax,
) -> _Draws:
    """What `sample` draws, and its log-probabilities for the rows that ask for them."""
    num_tops = {
        row: sequence.sampling_params.logprobs
        for row, sequence in enumerate(sequences)
        if sequence.sampling_params.logprobs is not None
    }
    # A copy: drawing overwrites the logits.
    raw = logits[list(num_tops)] if num_tops else None
    token_ids = sample(logits, sequences, grammar_masks, argmax)
    failures: dict[int, Exception] = {}
    if not all(token_ids):
        failures = {
            row: not_finite(sequences[row].num_tokens)
            for row, drawn in enumerate(token_ids)
            if not drawn
        }
    logprobs: dict[int, list[PositionLogprobs]] = {}
    if raw is not None:
        found = position_logprobs(raw, [token_ids[row] for row in num_tops], [*num_tops.values()])
        for row, positions in zip(num_tops, found, strict=True):
            if positions is None:
                failures[row] = not_finite(sequences[row].num_tokens)
            else:
                logprobs[row] = positions
    return _Draws(token_ids, logprobs, failures)
