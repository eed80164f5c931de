"""The states of sequences that decode, which stay on the device from step to step.

A state is a sequence's latest token, its length, its row of block ids. A step reads its inputs from
the states of its rows and leaves them ready for the next step, so a batch that has not changed
needs nothing from the host.
"""

import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.launching import launch_options, overlap_launch, padded

_WORDS = 256


@triton.jit(do_not_specialize=["num_changes"])
def _set_words(words, changes, num_changes, WORDS: tl.constexpr, OVERLAP: tl.constexpr):
    overlap_launch(OVERLAP)
    number = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    inside = number < num_changes
    index = tl.load(changes + number, mask=inside, other=0)
    tl.store(words + index, tl.load(changes + num_changes + number, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["num_rows", "stride_table"])
def _gather_inputs(
    rows,
    last_tokens,
    lengths,
    block_tables,
    input_ids,
    positions,
    slot_mapping,
    seq_lens,
    num_rows,
    stride_table,
    ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    overlap_launch(OVERLAP)
    row = tl.arange(0, ROWS)
    inside = row < num_rows
    state = tl.load(rows + row, mask=inside, other=0)
    length = tl.load(lengths + state, mask=inside, other=0)
    # The state of padding has no tokens, and its row is computed at position 0.
    position = tl.maximum(length - 1, 0)
    table = block_tables + state.to(tl.int64) * stride_table
    block = tl.load(table + position // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
    tl.store(input_ids + row, tl.load(last_tokens + state, mask=inside), mask=inside)
    tl.store(positions + row, position, mask=inside)
    tl.store(slot_mapping + row, block * BLOCK_SIZE + position % BLOCK_SIZE, mask=inside)
    tl.store(seq_lens + row, length, mask=inside)


@triton.jit(do_not_specialize=["num_rows", "num_states"])
def _advance(
    rows,
    token_ids,
    last_tokens,
    lengths,
    num_rows,
    num_states,
    ROWS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    overlap_launch(OVERLAP)
    row = tl.arange(0, ROWS)
    inside = row < num_rows
    state = tl.load(rows + row, mask=inside, other=0)
    inside &= state < num_states
    # -1 is a failed draw. Its sequence ends there, but may be computed once more before.
    token = tl.maximum(tl.load(token_ids + row, mask=inside), 0)
    tl.store(last_tokens + state, token, mask=inside)
    tl.store(lengths + state, tl.load(lengths + state, mask=inside) + 1, mask=inside)


def set_words(words: Tensor, changes: Tensor) -> None:
    """Sets words[changes[0, i]] to changes[1, i] for all i; both int32, no index twice."""
    num_changes = changes.shape[1]
    _set_words[(triton.cdiv(num_changes, _WORDS),)](
        words, changes, num_changes, WORDS=_WORDS, **launch_options(words.device)
    )


def gather_inputs(
    rows: Tensor,
    last_tokens: Tensor,
    lengths: Tensor,
    block_tables: Tensor,
    block_size: int,
    input_ids: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    seq_lens: Tensor,
) -> None:
    """Fills the last four, [R] each, for a step that computes the latest token of each row.

    `rows` [R] are indexes of states: `last_tokens` [S], `lengths` [S] and `block_tables` [S, W]. A
    length counts the latest token, which is yet to be computed. All int32 but slot_mapping, int64.
    """
    _gather_inputs[(1,)](
        rows=rows,
        last_tokens=last_tokens,
        lengths=lengths,
        block_tables=block_tables,
        input_ids=input_ids,
        positions=positions,
        slot_mapping=slot_mapping,
        seq_lens=seq_lens,
        num_rows=len(rows),
        stride_table=block_tables.stride(0),
        ROWS=padded(len(rows)),
        BLOCK_SIZE=block_size,
        **launch_options(rows.device),
    )


def advance(
    rows: Tensor, token_ids: Tensor, last_tokens: Tensor, lengths: Tensor, num_states: int
) -> None:
    """Appends `token_ids` [R] to the states whose indexes are `rows` [R].

    States from `num_states` on are padding and do not change. All int32.
    """
    _advance[(1,)](
        rows,
        token_ids,
        last_tokens,
        lengths,
        len(rows),
        num_states,
        ROWS=padded(len(rows)),
        **launch_options(rows.device),
    )
