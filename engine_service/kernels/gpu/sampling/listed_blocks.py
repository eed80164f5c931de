"""Passes over those blocks of a row that have a value of interest.

`block_ids` and `block_sums` are the row's scratch in global memory, one entry a block. All of it is
one program's work, so that barriers order its writes and reads.
"""

import triton
import triton.language as tl

from engine_service.kernels.gpu.sampling.order_keys import order_key, upper_middle
from engine_service.kernels.gpu.sampling.row_weights import kept_weights, pick, pick_share


@triton.jit
def block_order_keys(block_max, dtype: tl.constexpr, BLOCKS: tl.constexpr, SIZE: tl.constexpr):
    """The keys of the BLOCKS blocks' largest values, [SIZE], in the order of the type `dtype`."""
    places = tl.arange(0, SIZE)
    maxima = tl.load(block_max + places, mask=places < BLOCKS, other=float("-inf"))
    return order_key(maxima.to(dtype))


@triton.jit
def list_blocks(block_keys, floor, block_ids):
    """Writes the blocks that reach the key `floor`, ascending, to block_ids; returns how many."""
    wanted = block_keys >= floor
    places = tl.cumsum(wanted.to(tl.int32)) - 1
    # What was listed before has been read, and what is listed now can be, by all threads.
    tl.debug_barrier()
    tl.store(block_ids + places, tl.arange(0, block_keys.shape[0]), mask=wanted)
    tl.debug_barrier()
    return tl.sum(wanted.to(tl.int32))


@triton.jit
def load_blocks(
    row, block_ids, start, count, VOCAB: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr
):
    """The values [TILE, BLOCK] of the listed blocks from `start` on, and their numbers [TILE]."""
    places = start + tl.arange(0, TILE)
    listed = places < count
    blocks = tl.load(block_ids + places, mask=listed, other=0)
    ids = blocks[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    values = tl.load(row + ids, mask=listed[:, None] & (ids < VOCAB), other=float("-inf"))
    return values, blocks


@triton.jit
def sum_blocks(
    row,
    block_ids,
    block_sums,
    count,
    largest,
    factor,
    floor,
    min_p,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Writes the kept weight of each listed block to block_sums; returns their sum."""
    for start in tl.range(0, count, TILE, num_stages=3):
        values, _ = load_blocks(row, block_ids, start, count, VOCAB, BLOCK, TILE)
        sums = tl.sum(kept_weights(values, largest, factor, floor, min_p), axis=1)
        places = start + tl.arange(0, TILE)
        tl.store(block_sums + places, sums, mask=places < count)
    tl.debug_barrier()
    places = tl.arange(0, SIZE)
    return tl.sum(tl.load(block_sums + places, mask=places < count, other=0.0))


@triton.jit
def pick_listed(block_ids, block_sums, count, number, SIZE: tl.constexpr, GROUP: tl.constexpr):
    """The listed block at the share `number` of all their sums, and the weight left of it there."""
    GROUPS: tl.constexpr = SIZE // GROUP
    places = tl.arange(0, GROUPS)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    sums = tl.load(block_sums + places, mask=places < count, other=0.0)
    group, rest = pick_share(tl.sum(sums, axis=1), number)
    own = group * GROUP + tl.arange(0, GROUP)
    place, rest = pick(tl.load(block_sums + own, mask=own < count, other=0.0), rest)
    return tl.load(block_ids + group * GROUP + place), rest


@triton.jit
def search_blocks(
    row,
    block_ids,
    count,
    largest,
    factor,
    min_p,
    wanted,
    low,
    high,
    COUNTING: tl.constexpr,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """What `largest_key_reaching` finds, for all values of the listed blocks.

    Each weighs 1 where COUNTING, else its weight, where that is at least min_p. Each pass tries
    three thresholds: more would take longer than the passes that they save.
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
                weights = kept_weights(values, largest, factor, first, min_p)
            over_first += tl.sum(tl.where(keys >= first, weights, 0.0), axis=1)
            over_second += tl.sum(tl.where(keys >= second, weights, 0.0), axis=1)
            over_third += tl.sum(tl.where(keys >= third, weights, 0.0), axis=1)
        if tl.sum(over_third) >= wanted:
            low = third
        elif tl.sum(over_second) >= wanted:
            low = second
            high = third - 1
        elif tl.sum(over_first) >= wanted:
            low = first
            high = second - 1
        else:
            high = first - 1
    return low
