"""Causal attention of sequences with several new tokens each, over a paged KV cache.

A program takes a block of one sequence's queries with all the query heads of one key-value head, so
that keys and values are read once for the group of heads, and goes through the keys tile by tile
with the running maximum and sum of FlashAttention-2 (Dao, 2023). Tiles start at the sequence's
beginning and those past a query's position add exact zeros, so a query's result depends neither on
how its prompt is cut into steps nor on the other sequences.
"""

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.launching import cache_layout, padded

_LOG2_E = tl.constexpr(1.4426950408889634)

_ROWS = 128
"""Rows of a program's products: queries times the query heads of a group. Two groups of 4 warps
multiply 64 rows each, as Hopper's wgmma wants it; fewer rows would read keys from L2 more often."""


class _Launch(NamedTuple):
    """How the kernel is compiled."""

    tile: int
    """Keys that a program takes at a time."""
    warps: int
    stages: int
    """A tile in flight takes two stages, since its address comes from the block table: with 5 one
    tile is in use and two are in flight, with 3 products would wait for each tile."""


# By the bytes of a query's element and the head_dim, rounded up: the largest tiles that spill no
# registers on sm_90, with any cache and block size. (float32 with head_dim 256 spills some: it is
# multiplied without tensor cores, whole operands in registers.)
_LAUNCHES = {
    (2, 128): _Launch(tile=64, warps=8, stages=5),
    (2, 256): _Launch(tile=32, warps=8, stages=5),
    (4, 128): _Launch(tile=16, warps=16, stages=1),
    (4, 256): _Launch(tile=16, warps=16, stages=1),
}


def query_block_bound(query_lens: Sequence[int], group: int) -> int:
    """A `num_query_blocks` that suffices for sequences of `query_lens` new tokens, 0 included,
    where `group` query heads share a key-value head.

    It depends on the sum and the number of the lengths alone and grows with both, so one bound
    serves all batches that have no more tokens and no more sequences. Raises ValueError if the
    group is larger than a program's rows.
    """
    return sum(query_lens) // _block_queries(group) + len(query_lens)


def _block_queries(group: int) -> int:
    """Queries of a program."""
    if group > _ROWS:
        raise ValueError(f"{group} query heads share a key-value head; {_ROWS} may")
    return _ROWS // group


@triton.jit
def _sequence_of_block(block, query_start_loc, first_query, num_sequences, BLOCK_QUERIES):
    """The last sequence whose first block is not after `block`; num_sequences past the end."""
    low = 0
    high = num_sequences
    while low < high:
        middle = (low + high + 1) // 2
        if _first_block(middle, query_start_loc, first_query, BLOCK_QUERIES) <= block:
            low = middle
        else:
            high = middle - 1
    return low


@triton.jit
def _first_block(sequence, query_start_loc, first_query, BLOCK_QUERIES):
    """Where a sequence's blocks of queries start. Every sequence has room for one block more than
    its whole ones, so that no sum over the sequences before it is needed."""
    return (tl.load(query_start_loc + sequence) - first_query) // BLOCK_QUERIES + sequence


@triton.jit
def _attend(
    query,
    positions,
    table,
    key,
    value,
    stride_block,
    stride_token,
    seen_by_all,
    end_key,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
):
    """The weighted sums of values and the sums of weights, for keys up to end_key, of which every
    query sees those before seen_by_all."""
    ROWS: tl.constexpr = query.shape[0]
    PADDED_DIM: tl.constexpr = query.shape[1]
    offsets = tl.arange(0, TILE)
    dims = tl.arange(0, PADDED_DIM)
    total = tl.zeros([ROWS, PADDED_DIM], tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    for start in tl.range(0, end_key, TILE):
        keys = start + offsets
        if TILE <= BLOCK_SIZE:
            base = tl.load(table + start // BLOCK_SIZE).to(tl.int64) * stride_block
            slots = (start % BLOCK_SIZE + offsets) * stride_token
        else:
            base = 0
            blocks = tl.load(table + keys // BLOCK_SIZE, mask=keys < end_key, other=0)
            slots = blocks.to(tl.int64) * stride_block + keys % BLOCK_SIZE * stride_token
        cells = slots[:, None] + dims[None, :]
        # Without a mask on values, what lies in unused slots would reach the sums: 0 * NaN is NaN.
        exists = (keys < end_key)[:, None] & (dims < HEAD_DIM)[None, :]

        key_tile = tl.load(key + base + cells, mask=exists, other=0.0).to(query.dtype)
        scores = tl.dot(query, tl.trans(key_tile), input_precision="ieee")
        if start + TILE > seen_by_all:
            scores = tl.where(keys[None, :] <= positions[:, None], scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - new_max[:, None])
        shrink = tl.exp2(row_max - new_max)
        row_sum = row_sum * shrink + tl.sum(weights, 1)
        row_max = new_max
        value_tile = tl.load(value + base + cells, mask=exists, other=0.0).to(query.dtype)
        total = total * shrink[:, None]
        total = tl.dot(weights.to(query.dtype), value_tile, total, input_precision="ieee")
    return total, row_sum


# Views of longer tensors may start anywhere, and batches have any number of sequences: neither is
# worth compiling again.
@triton.jit(
    do_not_specialize=["num_sequences"],
    do_not_specialize_on_alignment=["table_rows", "seq_lens", "query_start_loc"],
)
def _extend_attention_kernel(
    query_pointer,
    key_pointer,
    value_pointer,
    scales_pointer,
    block_tables,
    table_rows,
    seq_lens,
    query_start_loc,
    out_pointer,
    stride_block,
    stride_token,
    stride_head,
    stride_table,
    num_sequences,
    scale,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    TILE: tl.constexpr,
):
    kv_head = tl.program_id(0)
    # A prompt's last queries see the most keys: they start first, so as not to finish alone.
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    first_query = tl.load(query_start_loc)
    sequence = _sequence_of_block(block, query_start_loc, first_query, num_sequences, BLOCK_QUERIES)
    if sequence == num_sequences:
        return
    block -= _first_block(sequence, query_start_loc, first_query, BLOCK_QUERIES)
    query_start = tl.load(query_start_loc + sequence)
    query_len = tl.load(query_start_loc + sequence + 1) - query_start
    first = block * BLOCK_QUERIES
    if first >= query_len:
        return
    seq_len = tl.load(seq_lens + sequence)
    table = block_tables + tl.load(table_rows + sequence).to(tl.int64) * stride_table

    rows = tl.arange(0, ROWS)
    dims = tl.arange(0, PADDED_DIM)
    queries = first + rows // GROUP
    heads = kv_head * GROUP + rows % GROUP
    exists = (rows < BLOCK_QUERIES * GROUP) & (queries < query_len)
    exists = exists[:, None] & (dims < HEAD_DIM)[None, :]
    num_heads = tl.num_programs(0) * GROUP
    base = query_start.to(tl.int64) * num_heads * HEAD_DIM
    cells = ((queries * num_heads + heads) * HEAD_DIM)[:, None] + dims[None, :]
    query = tl.load(query_pointer + base + cells, mask=exists, other=0.0)

    # Powers of 2 are cheaper than those of e. The scales of keys and values are factors of whole
    # sums, so stored numbers are used as they are.
    scale *= _LOG2_E
    value_scale = 1.0
    if scales_pointer is not None:
        scale *= tl.load(scales_pointer + kv_head)
        value_scale = tl.load(scales_pointer + tl.num_programs(0) + kv_head)

    first_position = seq_len - query_len + first
    positions = first_position + rows // GROUP
    total, row_sum = _attend(
        query=query,
        positions=positions,
        table=table,
        key=key_pointer + kv_head * stride_head,
        value=value_pointer + kv_head * stride_head,
        stride_block=stride_block,
        stride_token=stride_token,
        seen_by_all=first_position + 1,
        end_key=tl.minimum(first_position + BLOCK_QUERIES, seq_len),
        scale=scale,
        HEAD_DIM=HEAD_DIM,
        BLOCK_SIZE=BLOCK_SIZE,
        TILE=TILE,
    )
    result = total * (value_scale / row_sum)[:, None]
    tl.store(out_pointer + base + cells, result.to(out_pointer.dtype.element_ty), mask=exists)


def extend_attention(
    query: Tensor,
    cache: tuple[Tensor, Tensor, Tensor | None],
    block_tables: Tensor,
    table_rows: Tensor,
    seq_lens: Tensor,
    query_start_loc: Tensor,
    num_query_blocks: int,
    out: Tensor,
) -> None:
    """Writes to `out` the attention of B sequences' new tokens to all their tokens so far.

    The i-th of a sequence's q_len queries has position seq_len - q_len + i and sees the keys up to
    it, its own included, which must be in the cache. Products are scaled by head_dim ** -0.5. The
    host reads nothing, so the call can be part of a CUDA graph. `query`, `out` and the cache are as
    `decode_attention` has them; block_size is a power of two of at least 16, and unused slots may
    hold anything.

    Sequence b has the blocks in row table_rows[b] of `block_tables` [rows, W], seq_lens[b] tokens,
    the new ones included, and rows query_start_loc[b] to query_start_loc[b + 1] of `query`, all
    int32; query_start_loc[0] may be above 0, and sequences without new tokens are skipped.
    `num_query_blocks` is at least query_block_bound of the new tokens: too few leave rows
    unwritten. Raises ValueError if more query heads share a KV head than a program has rows.
    """
    key, value, scales = cache
    (_, num_heads, head_dim), num_kv_heads = query.shape, key.shape[2]
    group, padded_dim = num_heads // num_kv_heads, padded(head_dim, 16)
    launch = _LAUNCHES[query.element_size(), max(128, padded_dim)]
    _extend_attention_kernel[(num_kv_heads, num_query_blocks)](
        query_pointer=query,
        key_pointer=key,
        value_pointer=value,
        scales_pointer=scales,
        block_tables=block_tables,
        table_rows=table_rows,
        seq_lens=seq_lens,
        query_start_loc=query_start_loc,
        out_pointer=out,
        stride_table=block_tables.stride(0),
        num_sequences=len(table_rows),
        scale=head_dim**-0.5,
        **cache_layout(key),
        GROUP=group,
        PADDED_DIM=padded_dim,
        ROWS=_ROWS,
        BLOCK_QUERIES=_block_queries(group),
        TILE=launch.tile,
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
