"""Passes over those blocks of a row that have a value of interest.

`block_ids` and `block_sums` are the row's scratch in global memory, one entry a block. One program
uses it alone, so barriers order its writes and reads.
"""

import triton
import triton.language as tl

from engine_service.kernels.gpu.sampling.order_keys import order_key, upper_middle
from engine_service.kernels.gpu.sampling.row_weights import kept_weights, pick, pick_share


@triton.jit
def block_order_keys(block_max, dtype: tl.constexpr, BLOCKS: tl.constexpr, SIZE: tl.constexpr):
    """The keys of the maxima of the BLOCKS blocks, [SIZE], in the order of the type `dtype`."""
    indexes = tl.arange(0, SIZE)
    maxima = tl.load(block_max + indexes, mask=indexes < BLOCKS, other=float("-inf"))
    return order_key(maxima.to(dtype))


@triton.jit
def list_blocks(block_keys, floor, block_ids):
    """Writes the blocks that reach the key `floor`, ascending, to block_ids; returns how many."""
    reaches = block_keys >= floor
    indexes = tl.cumsum(reaches.to(tl.int32)) - 1
    # All threads have read the list before, and can read this one.
    tl.debug_barrier()
    tl.store(block_ids + indexes, tl.arange(0, block_keys.shape[0]), mask=reaches)
    tl.debug_barrier()
    return tl.sum(reaches.to(tl.int32))


@triton.jit
def load_blocks(
    row, block_ids, start, count, VOCAB: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr
):
    """The values [TILE, BLOCK] of the listed blocks from `start` on, and their numbers [TILE]."""
    indexes = start + tl.arange(0, TILE)
    listed = indexes < count
    blocks = tl.load(block_ids + indexes, mask=listed, other=0)
    ids = blocks[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    values = tl.load(row + ids, mask=listed[:, None] & (ids < VOCAB), other=float("-inf"))
    return values, blocks


@triton.jit
def sum_blocks(
    row,
    block_ids,
    block_sums,
    count,
    row_max,
    factor,
    floor,
    min_weight,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Writes the kept weight of each listed block to block_sums; returns their sum."""
    for start in tl.range(0, count, TILE, num_stages=3):
        values, _ = load_blocks(row, block_ids, start, count, VOCAB, BLOCK, TILE)
        sums = tl.sum(kept_weights(values, row_max, factor, floor, min_weight), axis=1)
        indexes = start + tl.arange(0, TILE)
        tl.store(block_sums + indexes, sums, mask=indexes < count)
    tl.debug_barrier()
    indexes = tl.arange(0, SIZE)
    return tl.sum(tl.load(block_sums + indexes, mask=indexes < count, other=0.0))


@triton.jit
def pick_listed(block_ids, block_sums, count, number, SIZE: tl.constexpr, GROUP: tl.constexpr):
    """The listed block at the share `number` of all their sums, and the weight left within it."""
    GROUPS: tl.constexpr = SIZE // GROUP
    indexes = tl.arange(0, GROUPS)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    sums = tl.load(block_sums + indexes, mask=indexes < count, other=0.0)
    group, rest = pick_share(tl.sum(sums, axis=1), number)
    own = group * GROUP + tl.arange(0, GROUP)
    index, rest = pick(tl.load(block_sums + own, mask=own < count, other=0.0), rest)
    return tl.load(block_ids + group * GROUP + index), rest


@triton.jit
def search_blocks(
    row,
    block_ids,
    count,
    row_max,
    factor,
    min_weight,
    goal,
    low,
    high,
    COUNTING: tl.constexpr,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """What `max_key_reaching` finds, for all values of the listed blocks.

    Each weighs 1 if COUNTING, else its weight if that is at least min_weight. Each pass tries three
    thresholds: more would take longer than the passes that they save.
    """
    while low < high:
        second = upper_middle(low, high)
        first = upper_middle(low, second - 1)
        third = upper_middle(second, high)
        over_first = tl.zeros((TILE,), tl.float32)
        over_second = tl.zeros((TILE,), tl.float32)
        over_third = tl.zeros((TILE,), tl.float32)
        for start in tl.range(0, count, TILE, num_stages=3):
            values, _ = load_blocks(row, block_ids, start, count, VOCAB, BLOCK, TILE)
            keys = order_key(values)
            if COUNTING:
                weights = tl.full(keys.shape, 1.0, tl.float32)
            else:
                weights = kept_weights(values, row_max, factor, first, min_weight)
            over_first += tl.sum(tl.where(keys >= first, weights, 0.0), axis=1)
            over_second += tl.sum(tl.where(keys >= second, weights, 0.0), axis=1)
            over_third += tl.sum(tl.where(keys >= third, weights, 0.0), axis=1)
        if tl.sum(over_third) >= goal:
            low = third
        elif tl.sum(over_second) >= goal:
            low = second
            high = third - 1
        elif tl.sum(over_first) >= goal:
            low = first
            high = second - 1
        else:
            high = first - 1
    return low
