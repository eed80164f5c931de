"""Drawing on the GPU: each draw by its own parameters, and what some rows need before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.kernels.gpu.sampling.bitmask import apply_bitmask
from engine_service.kernels.gpu.sampling.sampler import DrawParams, Workspace, draw
from engine_service.runner.device_copy import to_device
from engine_service.runner.sampling.grammar_masks import GrammarMasks, as_mask
from engine_service.runner.sampling.logits_processors import process_logits
from engine_service.seeding import as_signed


@dataclass(frozen=True, slots=True)
class Draw:
    """One token to draw after the last position of a sequence."""

    sequence: ScheduledSequence
    index: int
    """Whose random stream: a sequence index of its request."""

    @property
    def is_special(self) -> bool:
        """Whether its logits are changed before it."""
        sequence = self.sequence
        return (
            sequence.sampling_params.alters_logits
            or bool(sequence.forbidden_token_ids)
            or sequence.matcher is not None
        )


def draw_params(draws: Sequence[Draw], device: torch.device) -> DrawParams:
    """An entry for each draw, in one copy."""
    count = len(draws)
    words = np.empty((8, count), dtype=np.int32)
    params = [each.sequence.sampling_params for each in draws]
    seeds = np.array([as_signed(each.sequence.seed) for each in draws], dtype=np.int64)
    words[:2] = seeds.view(np.int32).reshape(2, count)
    words[2] = [each.index for each in draws]
    words[3] = [each.sequence.num_tokens for each in draws]
    words[4] = [p.top_k for p in params]
    floats = np.array([[p.temperature, p.top_p, p.min_p] for p in params], dtype=np.float32)
    words[5:] = floats.T.copy().view(np.int32)
    on_device = to_device(words, device)
    return DrawParams(
        seed=on_device[:2].reshape(-1).view(torch.int64),
        index=on_device[2],
        position=on_device[3],
        top_k=on_device[4],
        temperature=on_device[5].view(torch.float32),
        top_p=on_device[6].view(torch.float32),
        min_p=on_device[7].view(torch.float32),
    )


def draw_all(logits: Tensor, draws: Sequence[Draw], workspace: Workspace) -> Tensor:
    """A token id for each row of the logits, int32 [R], by the draw of the same place."""
    token_ids = torch.empty(len(draws), dtype=torch.int32, device=logits.device)
    most = len(workspace.chunk_max)
    rows = torch.arange(min(most, len(draws)), dtype=torch.int32, device=logits.device)
    for start in range(0, len(draws), most):
        part = draws[start : start + most]
        params = draw_params(part, logits.device)
        end = start + len(part)
        draw(logits[start:end], rows[: len(part)], params, workspace, token_ids[start:end])
    return token_ids


def change_logits(
    logits: Tensor, rows: Sequence[int], draws: Sequence[Draw], grammar_masks: GrammarMasks
) -> Tensor:
    """The logits to draw from in these rows, all of special draws, [len(rows), vocab_size].

    Rows that follow a grammar alone wait for nothing. The logits themselves may be changed.
    """
    sequences = [each.sequence for each in draws]
    words = grammar_masks.fill_words(sequences)
    places = list(words)
    if all(_follows_grammar_alone(sequence) for sequence in sequences):
        packed = to_device(np.stack([words[place] for place in places]), logits.device)
        targets = np.array([rows[place] for place in places], dtype=np.int32)
        apply_bitmask(logits, packed, to_device(targets, logits.device))
        return logits[to_device(np.array(rows), logits.device)]
    masks = {place: as_mask(words[place], logits.shape[-1]) for place in places}
    return process_logits(logits[list(rows)], sequences, masks).contiguous()


def _follows_grammar_alone(sequence: ScheduledSequence) -> bool:
    return not sequence.sampling_params.alters_logits and not sequence.forbidden_token_ids
