"""Draws on a GPU: each by its own parameters, some from logits that are changed first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.draw_fields import DRAW_PARAMS, DRAW_WORDS
from engine_service.kernels.gpu.sampling.bitmask import apply_bitmask
from engine_service.kernels.gpu.sampling.sampler import Workspace, draw
from engine_service.runner.device_copy import to_device
from engine_service.runner.sampling.grammar_masks import GrammarMasks, as_mask
from engine_service.runner.sampling.logits_processors import process_logits


@dataclass(frozen=True, slots=True)
class Draw:
    """One token to draw after the last position of a sequence."""

    sequence: ScheduledSequence
    index: int
    """The sequence index whose random stream is used."""

    @property
    def alters_logits(self) -> bool:
        """Whether the logits are changed before it."""
        sequence = self.sequence
        return (
            sequence.sampling_params.alters_logits
            or bool(sequence.forbidden_token_ids)
            or sequence.matcher is not None
        )


def pack_draws(draws: Sequence[Draw]) -> NDArray[np.int32]:
    """The DRAW_WORDS of each draw, int32 [words, draws]."""
    seeds = np.array([each.sequence.seed % 2**64 for each in draws], dtype=np.uint64)
    words = np.empty((len(DRAW_WORDS), len(draws)), dtype=np.int32)
    words[:2] = seeds.view(np.int32).reshape(len(draws), 2).T
    words[2] = [each.index for each in draws]
    words[3] = [each.sequence.num_tokens for each in draws]
    params = [each.sequence.sampling_params for each in draws]
    for name, dtype in DRAW_PARAMS.items():
        values = np.array([getattr(p, name) for p in params], dtype=dtype)
        words[DRAW_WORDS.index(name)] = values.view(np.int32)
    return words


def draw_all(logits: Tensor, draws: Sequence[Draw], workspace: Workspace) -> Tensor:
    """A token id for each row of the logits, int32 [R], by the draw of the same index."""
    token_ids = torch.empty(len(draws), dtype=torch.int32, device=logits.device)
    max_rows = len(workspace.chunk_max)
    rows = torch.arange(min(max_rows, len(draws)), dtype=torch.int32, device=logits.device)
    for start in range(0, len(draws), max_rows):
        part = draws[start : start + max_rows]
        params = to_device(pack_draws(part), logits.device)
        end = start + len(part)
        draw(logits[start:end], rows[: len(part)], params, workspace, token_ids[start:end])
    return token_ids


def change_logits(
    logits: Tensor, rows: Sequence[int], draws: Sequence[Draw], grammar_masks: GrammarMasks
) -> Tensor:
    """The logits to draw from in these rows, whose draws all alter them, [len(rows), vocab_size].

    Does not wait for the device if each row merely follows a grammar. May overwrite `logits`.
    """
    sequences = [each.sequence for each in draws]
    words = grammar_masks.fill_words(sequences)
    if not any(s.sampling_params.alters_logits or s.forbidden_token_ids for s in sequences):
        packed = to_device(np.stack([*words.values()]), logits.device)
        targets = np.array([rows[i] for i in words], dtype=np.int32)
        apply_bitmask(logits, packed, to_device(targets, logits.device))
        return logits[to_device(np.array(rows), logits.device)]
    masks = {i: as_mask(own, logits.shape[-1]) for i, own in words.items()}
    return process_logits(logits[list(rows)], sequences, masks).contiguous()
