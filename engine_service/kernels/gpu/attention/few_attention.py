"""Decode attention for so few sequences that its own instructions take longer than its bytes.

As `decode_attention` with `raw`, for one query head at a time and without tensor cores. Each index
of a tile has a softmax of its own, over every TILE-th key, so threads need not synchronize until
the end. A head's keys are split evenly among up to SPLITS programs, and the last to finish
combines them. A program requests its first keys while the kernel before still computes its query.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.attention.decode_parts import to_stored
from engine_service.kernels.gpu.attention.heads import RawHeads
from engine_service.kernels.gpu.launching import (
    cache_layout,
    launch_options,
    multiprocessors,
    padded,
)

MAX_SEQS = 4
"""The most that this is made for."""
_LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class FewWorkspace:
    """Memory at fixed addresses, shared by all layers."""

    tile: int
    """Tokens that are computed at once; a power of two."""
    arrivals: Tensor
    """Programs that have finished a part of each head's keys, int32 [MAX_SEQS * num_heads]; 0
    between launches."""
    states: Tensor
    """The maximum score and the softmax's sum of each part, float32 [2, parts]."""
    mixed: Tensor
    """The values that it mixes, float32 [parts, head_dim]."""


def make_few_workspace(
    num_heads: int, head_dim: int, device: torch.device, tile: int = 64
) -> FewWorkspace:
    """Room for MAX_SEQS sequences."""
    parts = num_heads * max(
        num_seqs * max_splits(num_seqs, num_heads, device) for num_seqs in range(1, MAX_SEQS + 1)
    )
    return FewWorkspace(
        tile=tile,
        arrivals=torch.zeros(MAX_SEQS * num_heads, dtype=torch.int32, device=device),
        states=torch.zeros((2, parts), device=device),
        mixed=torch.zeros((parts, head_dim), device=device),
    )


def max_splits(num_seqs: int, num_heads: int, device: torch.device) -> int:
    """Programs of one head that give every multiprocessor one; a power of two."""
    splits = max(1, multiprocessors(device) // (num_seqs * num_heads))
    return 1 << (splits.bit_length() - 1)


@triton.jit
def _rotated_row(row, weight, cos, sin, dim, eps, HEAD_DIM: tl.constexpr, NORM: tl.constexpr):
    """One head, normed and rotated, float32 [dims]; `sin` has the sign of each dimension."""
    inside = dim < HEAD_DIM
    partner = tl.where(dim < HEAD_DIM // 2, dim + HEAD_DIM // 2, dim - HEAD_DIM // 2)
    own = tl.load(row + dim, mask=inside, other=0.0)
    other = tl.load(row + partner, mask=inside, other=0.0)
    kind = row.dtype.element_ty
    own_wide, other_wide = own.to(tl.float32), other.to(tl.float32)
    if NORM:
        rate = tl.rsqrt(tl.sum(own_wide * own_wide) / HEAD_DIM + eps)
        own_weight = tl.load(weight + dim, mask=inside, other=0.0).to(tl.float32)
        other_weight = tl.load(weight + partner, mask=inside, other=0.0).to(tl.float32)
        own_wide = (own_wide * rate).to(kind).to(tl.float32) * own_weight
        other_wide = (other_wide * rate).to(kind).to(tl.float32) * other_weight
    return (own_wide * cos + other_wide * sin).to(kind).to(tl.float32)


@triton.jit
def _load_tile(
    keys,
    values,
    table,
    number,
    offset,
    num_cached,
    inside,
    stride_block,
    stride_token,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Keys and values of a tile of a head, each [TILE, dims], 0 past the end."""
    position = number * TILE + offset
    present = position < num_cached
    block = tl.load(table + position // BLOCK_SIZE, mask=present, other=0).to(tl.int64)
    slots = (block * stride_block + (position % BLOCK_SIZE) * stride_token)[:, None]
    mask = present[:, None] & inside[None, :]
    key = tl.load(keys + slots, mask=mask, other=0.0)
    return key, tl.load(values + slots, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["stride_table"])
def _decode_few(
    qkv,
    q_weight,
    k_weight,
    angles,
    key_cache,
    value_cache,
    scales,
    block_tables,
    table_rows,
    seq_lens,
    out,
    arrivals,
    max_scores,
    weights,
    mixed_parts,
    eps,
    score_scale,
    stride_table,
    stride_block,
    stride_token,
    stride_head,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    NORM: tl.constexpr,
    FP8: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    split, head, seq = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    kv_head = head // GROUP
    num_cached = tl.load(seq_lens + seq) - 1
    table = block_tables + tl.load(table_rows + seq).to(tl.int64) * stride_table
    num_tiles = tl.maximum((num_cached + TILE - 1) // TILE, 1)
    share = (num_tiles + SPLITS - 1) // SPLITS
    used = (num_tiles + share - 1) // share
    dim, offset = tl.arange(0, DIMS), tl.arange(0, TILE)
    inside = dim < HEAD_DIM
    keys = key_cache + kv_head * stride_head + dim[None, :]
    values = value_cache + kv_head * stride_head + dim[None, :]
    key_scale, value_scale = 1.0, 1.0
    if FP8:
        key_scale = tl.load(scales + kv_head)
        value_scale = tl.load(scales + NUM_KV_HEADS + kv_head)
    angle = angles + tl.maximum(num_cached, 0).to(tl.int64) * HEAD_DIM + dim % (HEAD_DIM // 2)
    cos = tl.load(angle, mask=inside, other=0.0)
    sin = tl.load(angle + HEAD_DIM // 2, mask=inside, other=0.0)
    sin = tl.where(dim < HEAD_DIM // 2, -sin, sin)
    first = split * share
    key, value = _load_tile(
        *(keys, values, table, first, offset, num_cached, inside),
        *(stride_block, stride_token, BLOCK_SIZE, TILE),
    )
    # What is read before this was written by earlier steps, or long before in this one.
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
    # The state of padding has no tokens at all.
    if (split < used) & (num_cached >= 0):
        token = qkv + seq * (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM
        query = _rotated_row(token + head * HEAD_DIM, q_weight, cos, sin, dim, eps, HEAD_DIM, NORM)
        query *= score_scale * key_scale

        row_max = tl.full([TILE], float("-inf"), tl.float32)
        weight = tl.zeros([TILE], tl.float32)
        mixed = tl.zeros([TILE, DIMS], tl.float32)
        for number in range(first, tl.minimum(first + share, num_tiles)):
            next_key, next_value = _load_tile(
                *(keys, values, table, number + 1, offset, num_cached, inside),
                *(stride_block, stride_token, BLOCK_SIZE, TILE),
            )
            score = tl.sum(key.to(tl.float32) * query[None, :], axis=1)
            score = tl.where(number * TILE + offset < num_cached, score, float("-inf"))
            new_max = tl.maximum(row_max, score)
            # An index that has seen no key has no maximum score yet.
            base = tl.where(new_max == float("-inf"), 0.0, new_max)
            own, shrink = tl.exp2(score - base), tl.exp2(row_max - base)
            weight = weight * shrink + own
            mixed = mixed * shrink[:, None] + own[:, None] * value.to(tl.float32)
            row_max = new_max
            key, value = next_key, next_value

        top = tl.max(row_max)
        new_score = float("-inf")
        new_value = tl.zeros([DIMS], tl.float32)
        if split == used - 1:
            stored = key_cache.dtype.element_ty
            key_row = token + (NUM_HEADS + kv_head) * HEAD_DIM
            new_key = _rotated_row(key_row, k_weight, cos, sin, dim, eps, HEAD_DIM, NORM)
            new_key = to_stored(new_key, key_scale, stored, FP8)
            value_row = key_row + NUM_KV_HEADS * HEAD_DIM
            own_value = tl.load(value_row + dim, mask=inside, other=0.0).to(tl.float32)
            own_value = to_stored(own_value, value_scale, stored, FP8)
            if head % GROUP == 0:
                slot = tl.load(table + num_cached // BLOCK_SIZE).to(tl.int64) * stride_block
                slot += kv_head * stride_head + (num_cached % BLOCK_SIZE) * stride_token
                tl.store(key_cache + slot + dim, new_key, mask=inside)
                tl.store(value_cache + slot + dim, own_value, mask=inside)
            new_score = tl.sum(query * new_key.to(tl.float32))
            new_value = own_value.to(tl.float32)
            top = tl.maximum(top, new_score)
        # A split without any of the cached keys has at least the new token.
        factor = tl.exp2(row_max - top)
        total = tl.sum(weight * factor) + tl.exp2(new_score - top)
        result = tl.sum(mixed * factor[:, None], axis=0) + tl.exp2(new_score - top) * new_value

        is_done = used == 1
        if used > 1:
            own_head = seq * NUM_HEADS + head
            part = own_head * SPLITS + split
            tl.store(max_scores + part, top)
            tl.store(weights + part, total)
            tl.store(mixed_parts + part * HEAD_DIM + dim, result, mask=inside)
            # Every thread's stores come before the count.
            tl.debug_barrier()
            is_done = tl.atomic_add(arrivals + own_head, 1, sem="acq_rel") == used - 1
            if is_done:
                tl.store(arrivals + own_head, 0)
                other = tl.arange(0, SPLITS)
                exists = other < used
                parts = own_head * SPLITS + other
                # Not from the first cache, which may hold older values.
                tops = tl.load(
                    max_scores + parts, mask=exists, other=float("-inf"), cache_modifier=".cg"
                )
                totals = tl.load(weights + parts, mask=exists, other=0.0, cache_modifier=".cg")
                all_mixed = tl.load(
                    mixed_parts + parts[:, None] * HEAD_DIM + dim[None, :],
                    mask=exists[:, None] & inside[None, :],
                    other=0.0,
                    cache_modifier=".cg",
                )
                factors = tl.exp2(tops - tl.max(tops))
                total = tl.sum(totals * factors)
                result = tl.sum(all_mixed * factors[:, None], axis=0)
        if is_done:
            target = out + (seq * NUM_HEADS + head) * HEAD_DIM + dim
            tl.store(target, result * value_scale / total, mask=inside)


def few_decode_attention(
    qkv: Tensor,
    raw: RawHeads,
    cache: tuple[Tensor, Tensor, Tensor | None],
    block_tables: Tensor,
    table_rows: Tensor,
    seq_lens: Tensor,
    workspace: FewWorkspace,
    out: Tensor,
) -> None:
    """As `decode_attention` with `raw`, for at most MAX_SEQS sequences and without a plan."""
    key_cache, value_cache, scales = cache
    kv_heads, head_dim = key_cache.shape[2:]
    num_seqs, num_heads, _ = out.shape
    splits = max_splits(num_seqs, num_heads, out.device)
    _decode_few[(splits, num_heads, num_seqs)](
        qkv=qkv,
        q_weight=raw.q_weight,
        k_weight=raw.k_weight,
        angles=raw.angles,
        key_cache=key_cache,
        value_cache=value_cache,
        scales=scales,
        block_tables=block_tables,
        table_rows=table_rows,
        seq_lens=seq_lens,
        out=out,
        arrivals=workspace.arrivals,
        max_scores=workspace.states[0],
        weights=workspace.states[1],
        mixed_parts=workspace.mixed,
        eps=raw.eps,
        score_scale=head_dim**-0.5 * _LOG2_E,
        stride_table=block_tables.stride(0),
        **cache_layout(key_cache),
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=kv_heads,
        DIMS=padded(head_dim),
        TILE=workspace.tile,
        SPLITS=splits,
        NORM=raw.q_weight is not None,
        FP8=scales is not None,
        num_warps=8,
        **launch_options(qkv.device),
    )
