"""InputBatch: a scheduled step as the tensors that the model takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

import numpy as np
import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.layers.attention.backend import AttentionMetadata
from engine_service.runner.device_copy import to_device


@dataclass(frozen=True, slots=True)
class InputBatch:
    """The tokens of all scheduled sequences as one batch of T.

    Sequences with one query token come first, shorter ones before longer ones; then the others, in
    the scheduler's order.
    """

    input_ids: Tensor
    """[T]"""
    positions: Tensor
    """[T]"""
    metadata: AttentionMetadata
    sampled: tuple[int, ...]
    """The indexes of the sequences that draw tokens, in the scheduler's order."""
    sampled_rows: Tensor
    """The batch rows of their draws, sequence by sequence, [draws]."""
    last_rows: tuple[tuple[int, int], ...]
    """The index and the last batch row of each other sequence, in the order of rows."""
    first_rows: tuple[int, ...]
    """The batch row of the first token of each sequence, in the scheduler's order."""


def build_input_batch(
    scheduled: Sequence[ScheduledSequence], block_size: int, device: torch.device
) -> InputBatch:
    """Lays out a step of at least one sequence; its numbers go to the device in one copy."""
    order = sorted(range(len(scheduled)), key=lambda i: _batch_order(scheduled[i]))
    sequences = [scheduled[i] for i in order]
    starts = (0, *accumulate(sequence.num_scheduled_tokens for sequence in sequences))
    seq_lens = tuple(sequence.num_tokens for sequence in sequences)
    tables = _block_tables(sequences, block_size)
    input_ids, positions, slots = _tokens(sequences, starts, tables, block_size)
    sampling = [row for row, sequence in enumerate(sequences) if sequence.sample_indexes]
    # Of each the last row, and one more for each draft.
    sampled_rows = [
        row
        for i in sampling
        for row in range(starts[i + 1] - 1 - len(sequences[i].draft_token_ids), starts[i + 1])
    ]
    parts = (
        input_ids,
        positions,
        slots,
        np.array(seq_lens, dtype=np.int64),
        np.array(sampled_rows, dtype=np.int64),
        tables.reshape(-1),
    )
    packed = to_device(np.concatenate(parts), device)
    tensors = torch.split(packed, [len(part) for part in parts])
    return InputBatch(
        input_ids=tensors[0],
        positions=tensors[1],
        metadata=AttentionMetadata(
            num_decodes=sum(sequence.num_scheduled_tokens == 1 for sequence in sequences),
            query_start_loc=starts,
            seq_lens=seq_lens,
            seq_lens_tensor=tensors[3],
            block_tables=tensors[5].view(tables.shape),
            slot_mapping=tensors[2],
            block_size=block_size,
        ),
        sampled=tuple(order[row] for row in sampling),
        sampled_rows=tensors[4],
        last_rows=tuple(
            (order[row], starts[row + 1] - 1)
            for row, sequence in enumerate(sequences)
            if not sequence.sample_indexes
        ),
        first_rows=tuple(start for _, start in sorted(zip(order, starts, strict=False))),
    )


def _batch_order(sequence: ScheduledSequence) -> float:
    """The key that sorts decodes by length and puts the others after them, as they are."""
    return sequence.num_tokens if sequence.num_scheduled_tokens == 1 else inf


def _block_tables(sequences: Sequence[ScheduledSequence], block_size: int) -> np.ndarray:
    """[B, max blocks], padded with block 0."""
    counts = [-(-sequence.num_tokens // block_size) for sequence in sequences]
    tables = np.zeros((len(sequences), max(counts)), dtype=np.int64)
    for row, (sequence, count) in enumerate(zip(sequences, counts, strict=True)):
        tables[row, :count] = sequence.block_table[:count]
    return tables


def _tokens(
    sequences: Sequence[ScheduledSequence],
    starts: Sequence[int],
    tables: np.ndarray,
    block_size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, positions and slots of all tokens, each [T]."""
    input_ids = np.fromiter(
        (token_id for sequence in sequences for token_id in sequence.token_ids),
        dtype=np.int64,
        count=starts[-1],
    )
    counts = [sequence.num_scheduled_tokens for sequence in sequences]
    rows = np.repeat(np.arange(len(sequences)), counts)
    firsts = np.array(
        [seq.num_computed_tokens - start for seq, start in zip(sequences, starts, strict=False)]
    )
    positions = np.arange(starts[-1]) + firsts[rows]
    slots = tables[rows, positions // block_size] * block_size + positions % block_size
    return input_ids, positions, slots
