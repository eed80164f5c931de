"""From a fused projection to rotated queries and the cache: norms of heads, RoPE, and the write."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.attention.heads import (
    RawHeads,
    fp8_range,
    norm_halves,
    rotate_halves,
)
from engine_service.kernels.gpu.launching import (
    cache_layout,
    launch_options,
    overlap_launch,
    padded,
)

_HEADS = 4


@triton.jit
def _norm_rope_write(
    qkv,
    q_weight,
    k_weight,
    angles,
    positions,
    slot_mapping,
    key_cache,
    value_cache,
    scales,
    query,
    eps,
    stride_block,
    stride_token,
    stride_head,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    NORM: tl.constexpr,
    FP8: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One token, HEADS of its heads: queries first, then keys, then values."""
    overlap_launch(OVERLAP)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    dim = tl.arange(0, HALF)[None, :]
    inside = (head < NUM_HEADS + 2 * NUM_KV_HEADS) & (dim < HEAD_DIM // 2)
    source = (token * (NUM_HEADS + 2 * NUM_KV_HEADS) + head) * HEAD_DIM + dim
    low = tl.load(qkv + source, mask=inside, other=0.0)
    high = tl.load(qkv + source + HEAD_DIM // 2, mask=inside, other=0.0)
    is_query = head < NUM_HEADS
    is_value = head >= NUM_HEADS + NUM_KV_HEADS
    first, second = low.to(tl.float32), high.to(tl.float32)
    half = dim < HEAD_DIM // 2
    if NORM:
        q_low = tl.load(q_weight + dim, mask=half, other=0.0)
        q_high = tl.load(q_weight + HEAD_DIM // 2 + dim, mask=half, other=0.0)
        k_low = tl.load(k_weight + dim, mask=half, other=0.0)
        k_high = tl.load(k_weight + HEAD_DIM // 2 + dim, mask=half, other=0.0)
        low_weight = tl.where(is_query, q_low, k_low)
        high_weight = tl.where(is_query, q_high, k_high)
        first, second = norm_halves(low, high, low_weight, high_weight, eps, HEAD_DIM)
    position = tl.load(positions + token).to(tl.int64)
    cos = tl.load(angles + position * HEAD_DIM + dim, mask=half, other=0.0)
    sin = tl.load(angles + position * HEAD_DIM + HEAD_DIM // 2 + dim, mask=half, other=0.0)
    first, second = rotate_halves(first, second, cos, sin)
    first = tl.where(is_value, low.to(tl.float32), first)
    second = tl.where(is_value, high.to(tl.float32), second)

    target = query + (token * NUM_HEADS + head) * HEAD_DIM + dim
    tl.store(target, first.to(low.dtype), mask=inside & is_query)
    tl.store(target + HEAD_DIM // 2, second.to(low.dtype), mask=inside & is_query)

    slot = tl.load(slot_mapping + token).to(tl.int64)
    kv_head = tl.where(is_value, head - NUM_HEADS - NUM_KV_HEADS, head - NUM_HEADS)
    offset = (slot // BLOCK_SIZE) * stride_block + (slot % BLOCK_SIZE) * stride_token
    offset += kv_head * stride_head + dim
    if FP8:
        stored = ~is_query & (head < NUM_HEADS + 2 * NUM_KV_HEADS)
        own = tl.load(
            scales + tl.where(is_value, NUM_KV_HEADS, 0) + kv_head, mask=stored, other=1.0
        )
        first = fp8_range(first / own)
        second = fp8_range(second / own)
    is_key = ~is_query & ~is_value & inside
    is_value &= inside
    kind = key_cache.dtype.element_ty
    tl.store(key_cache + offset, first.to(kind), mask=is_key)
    tl.store(key_cache + offset + HEAD_DIM // 2, second.to(kind), mask=is_key)
    tl.store(value_cache + offset, first.to(kind), mask=is_value)
    tl.store(value_cache + offset + HEAD_DIM // 2, second.to(kind), mask=is_value)


def norm_rope_write(
    qkv: Tensor,
    raw: RawHeads,
    positions: Tensor,
    slot_mapping: Tensor,
    cache: tuple[Tensor, Tensor, Tensor | None],
    num_heads: int,
) -> Tensor:
    """Queries ready for attention, [T, num_heads, head_dim]; keys and values go to the cache.

    `qkv` is [T, (num_heads + 2 * num_kv_heads) * head_dim]. The cache is keys and values,
    [blocks, block_size, num_kv_heads, head_dim] in any order of strides, the same for both, with
    head_dim contiguous, and None; of type float8_e4m3fn they hold numbers divided by scales,
    float32 [2, num_kv_heads], the keys' first, which come third. `slot_mapping` [T] has the slot of
    each token's KV.
    """
    key_cache, value_cache, scales = cache
    kv_heads, head_dim = key_cache.shape[2:]
    num_tokens = len(qkv)
    query = torch.empty((num_tokens, num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    grid = (num_tokens, triton.cdiv(num_heads + 2 * kv_heads, _HEADS))
    _norm_rope_write[grid](
        qkv=qkv,
        q_weight=raw.q_weight,
        k_weight=raw.k_weight,
        angles=raw.angles,
        positions=positions,
        slot_mapping=slot_mapping,
        key_cache=key_cache,
        value_cache=value_cache,
        scales=scales,
        query=query,
        eps=raw.eps,
        **cache_layout(key_cache),
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=kv_heads,
        HALF=padded(head_dim // 2),
        HEADS=_HEADS,
        NORM=raw.q_weight is not None,
        FP8=scales is not None,
        num_warps=1,
        **launch_options(qkv.device),
    )
    return query
