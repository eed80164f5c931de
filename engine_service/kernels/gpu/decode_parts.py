"""Parts of decode attention: heads made ready, a tile of keys attended to, a head put together."""

import triton
import triton.language as tl

from engine_service.kernels.gpu.heads import fp8_range, norm_halves, rotate_halves


@triton.jit
def rotated(
    low,
    high,
    low_weight,
    high_weight,
    cos,
    sin,
    eps,
    HEAD_DIM: tl.constexpr,
    NORM: tl.constexpr,
):
    """Both halves of heads [heads, half], normed and rotated, in float32."""
    first, second = low.to(tl.float32), high.to(tl.float32)
    if NORM:
        first, second = norm_halves(low, high, low_weight, high_weight, eps, HEAD_DIM)
    return rotate_halves(first, second, cos, sin)


@triton.jit
def picked_row(values, row, number):
    """One row of values [rows, columns], float32 [1, columns]."""
    return tl.sum(tl.where(row[:, None] == number, values, 0.0), axis=0)[None, :]


@triton.jit
def to_stored(values, scale, stored, FP8: tl.constexpr, LARGEST: tl.constexpr):
    """Values as the cache holds them."""
    if FP8:
        values = fp8_range(values / scale, LARGEST)
    return values.to(stored)


@triton.jit
def load_tile(
    keys,
    values,
    slots,
    present,
    half,
    dim,
    HEAD_DIM: tl.constexpr,
):
    """The halves of keys, and the values, of a tile of tokens in these slots [tokens]."""
    is_key = present[:, None] & (half < HEAD_DIM // 2)
    is_value = present[:, None] & (dim < HEAD_DIM)[None, :]
    low = tl.load(keys + slots[:, None] + half, mask=is_key, other=0.0)
    high = tl.load(keys + slots[:, None] + HEAD_DIM // 2 + half, mask=is_key, other=0.0)
    return low, high, tl.load(values + slots[:, None] + dim[None, :], mask=is_value, other=0.0)


@triton.jit
def attend(highest, weight, mixed, low, high, low_keys, high_keys, values, seen, scale):
    """The softmax state of queries [rows, half each] after one more tile of keys and values.

    `seen` [rows, tokens] says which of them each row sees.
    """
    kind = low.dtype
    scores = tl.dot(low, tl.trans(low_keys.to(kind)), input_precision="ieee")
    scores = tl.dot(high, tl.trans(high_keys.to(kind)), scores, input_precision="ieee")
    scores = tl.where(seen, scores * scale, float("-inf"))
    new_highest = tl.maximum(highest, tl.max(scores, axis=1))
    # A row that sees none of these keys, nor any before, has no highest score yet.
    base = tl.where(new_highest == float("-inf"), 0.0, new_highest)
    shares = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(highest - base)
    weight = weight * shrink + tl.sum(shares, axis=1)
    mixed = mixed * shrink[:, None]
    mixed = tl.dot(shares.to(kind), values.to(kind), mixed, input_precision="ieee")
    return new_highest, weight, mixed


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
    PARTS: tl.constexpr,
):
    """The softmax sums [ROWS] and mixed values [ROWS, DIMS] of a head.

    They are those of programs first to last together, of which PARTS are read at once.
    """
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, DIMS], tl.float32)
    for start in range(first, last + 1, PARTS):
        program = start + tl.arange(0, PARTS)
        # Of the programs with a part of a head, the first has it last and the others first.
        part = 2 * program + (program == first).to(tl.int32)
        is_part = (program <= last)[:, None] & (row < NUM_ROWS)[None, :]
        places = part[:, None] * NUM_ROWS + row[None, :]
        # Past the first cache, which may hold what was there before.
        own_highest = tl.load(
            maxima + places, mask=is_part, other=float("-inf"), cache_modifier=".cg"
        )
        own_weight = tl.load(sums + places, mask=is_part, other=0.0, cache_modifier=".cg")
        own_mixed = tl.load(
            mixed_parts + places[:, :, None] * HEAD_DIM + dim[None, None, :],
            mask=is_part[:, :, None] & (dim < HEAD_DIM)[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        new_highest = tl.maximum(highest, tl.max(own_highest, axis=0))
        base = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        shrink = tl.exp2(highest - base)
        own_shrink = tl.exp2(own_highest - base[None, :])
        weight = weight * shrink + tl.sum(own_weight * own_shrink, axis=0)
        own_mixed = tl.sum(own_mixed * own_shrink[:, :, None], axis=0)
        mixed = mixed * shrink[:, None] + own_mixed
        highest = new_highest
    return weight, mixed


@triton.jit
def store_heads(
    out,
    mixed,
    weight,
    value_scale,
    first_token,
    num_queries,
    head,
    row,
    dim,
    TOKEN_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    """Writes what rows [rows] of a KV head's queries have mixed, divided by their weights."""
    exists = (row < NUM_ROWS) & (row // GROUP < num_queries)
    result = mixed * value_scale / tl.where(exists, weight, 1.0)[:, None]
    token = (first_token + row // GROUP).to(tl.int64)
    place = (token * TOKEN_HEADS + head * GROUP + row % GROUP)[:, None] * HEAD_DIM + dim[None, :]
    is_value = exists[:, None] & (dim < HEAD_DIM)[None, :]
    tl.store(out + place, result.to(out.dtype.element_ty), mask=is_value)
