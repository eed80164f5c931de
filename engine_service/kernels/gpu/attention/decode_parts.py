"""Parts of decode attention: preparing heads, writing a new token's KV, combining a split head."""

import triton
import triton.language as tl

from engine_service.kernels.gpu.attention.heads import fp8_range, norm_halves, rotate_halves


@triton.jit
def rotated(head_rows, weight, angles, mask, dim, eps, HEAD_DIM: tl.constexpr, NORM: tl.constexpr):
    """Both halves of heads that begin at `head_rows` [heads, 1], normed and rotated, float32."""
    is_dim = dim < HEAD_DIM // 2
    low = tl.load(head_rows + dim, mask=mask & is_dim, other=0.0)
    high = tl.load(head_rows + HEAD_DIM // 2 + dim, mask=mask & is_dim, other=0.0)
    cos = tl.load(angles + dim, mask=is_dim, other=0.0)
    sin = tl.load(angles + HEAD_DIM // 2 + dim, mask=is_dim, other=0.0)
    first, second = low.to(tl.float32), high.to(tl.float32)
    if NORM:
        low_weight = tl.load(weight + dim, mask=is_dim, other=0.0)
        high_weight = tl.load(weight + HEAD_DIM // 2 + dim, mask=is_dim, other=0.0)
        first, second = norm_halves(low, high, low_weight, high_weight, eps, HEAD_DIM)
    return rotate_halves(first, second, cos, sin)


@triton.jit
def to_stored(values, scale, stored, FP8: tl.constexpr, FP8_MAX: tl.constexpr):
    """Values as the cache holds them."""
    if FP8:
        values = fp8_range(values / scale, FP8_MAX)
    return values.to(stored)


@triton.jit
def write_new(
    key_row,
    value_offset,
    weight,
    angles,
    key_slot,
    value_slot,
    key_scale,
    value_scale,
    half,
    dim,
    eps,
    HEAD_DIM: tl.constexpr,
    NORM: tl.constexpr,
    FP8: tl.constexpr,
    FP8_MAX: tl.constexpr,
):
    """Writes a token's key, normed and rotated, and its value to their slots.

    The key's projection is at `key_row`, the value's at `value_offset` from there. Returns both
    halves of the key [1, half] and the value [1, dim] as the cache has them.
    """
    is_half, is_dim = half < HEAD_DIM // 2, (dim < HEAD_DIM)[None, :]
    dim = dim[None, :]
    kind = key_row.dtype.element_ty
    stored = key_slot.dtype.element_ty
    head_rows = key_row + tl.zeros([1, 1], tl.int32)
    low, high = rotated(head_rows, weight, angles, is_half, half, eps, HEAD_DIM, NORM)
    low, high = low.to(kind).to(tl.float32), high.to(kind).to(tl.float32)
    value = tl.load(key_row + value_offset + dim, mask=is_dim, other=0.0).to(tl.float32)
    low = to_stored(low, key_scale, stored, FP8, FP8_MAX)
    high = to_stored(high, key_scale, stored, FP8, FP8_MAX)
    value = to_stored(value, value_scale, stored, FP8, FP8_MAX)
    tl.store(key_slot + half, low, mask=is_half)
    tl.store(key_slot + HEAD_DIM // 2 + half, high, mask=is_half)
    tl.store(value_slot + dim, value, mask=is_dim)
    return low, high, value


@triton.jit
def combine(
    maxima,
    sums,
    mixed_parts,
    first,
    last,
    row,
    dim,
    NUM_ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    DIMS: tl.constexpr,
):
    """The softmax sums and mixed values of a head from the parts of programs first to last."""
    is_row = row < NUM_ROWS
    mask = is_row[:, None] & (dim < HEAD_DIM)[None, :]
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, DIMS], tl.float32)
    for program in range(first, last + 1):
        # The first program of a head ends with it; the others begin with it.
        parts = (2 * program + (program == first).to(tl.int32)) * NUM_ROWS + row
        cells = parts[:, None] * HEAD_DIM + dim[None, :]
        # Not from the first cache, which may hold older values.
        own_max = tl.load(maxima + parts, mask=is_row, other=float("-inf"), cache_modifier=".cg")
        own_weight = tl.load(sums + parts, mask=is_row, other=0.0, cache_modifier=".cg")
        own_mixed = tl.load(mixed_parts + cells, mask=mask, other=0.0, cache_modifier=".cg")
        new_max = tl.maximum(row_max, own_max)
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        shrink, own_shrink = tl.exp2(row_max - base), tl.exp2(own_max - base)
        weight = weight * shrink + own_weight * own_shrink
        mixed = mixed * shrink[:, None] + own_mixed * own_shrink[:, None]
        row_max = new_max
    return weight, mixed
