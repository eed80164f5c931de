"""A draw from what top_k, a minimum weight and top_p keep of a row, without sorting it.

The maximum of each block of ids is known. The blocks with the largest maxima, as many as fit into
registers, hold all values down to some `edge`, and nearly always all that is kept. If they do not,
passes over the other blocks find the rest.
"""

import triton
import triton.language as tl

from engine_service.kernels.gpu.sampling.listed_blocks import (
    block_order_keys,
    list_blocks,
    load_blocks,
    pick_listed,
    search_blocks,
    sum_blocks,
)
from engine_service.kernels.gpu.sampling.order_keys import max_key_reaching, order_key
from engine_service.kernels.gpu.sampling.row_weights import (
    pick_share,
    relative_weights,
    token_within,
)


@triton.jit
def draw_filtered(
    row,
    block_max,
    block_ids,
    block_sums,
    row_max,
    factor,
    total,
    number,
    top_k,
    top_p,
    min_weight,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    SIZE: tl.constexpr,
    HELD: tl.constexpr,
    TILE: tl.constexpr,
):
    """The id drawn from the logits at `row` with `number` in [0, 1).

    block_max, block_ids and block_sums have BLOCKS entries, SIZE is the next power of 2; HELD of
    the blocks fit into registers, TILE of them are a step of a pass. `total` is the weight of the
    whole row, in which the value `row_max` weighs 1; no token under `min_weight` is kept.
    """
    dtype: tl.constexpr = row.dtype.element_ty
    nothing = order_key(tl.full((), float("-inf"), tl.float32).to(dtype))
    min_key = nothing + 1
    max_key = order_key(row_max.to(dtype))
    has_top_k = (top_k > 0) & (top_k < VOCAB)

    block_keys = block_order_keys(block_max, dtype, BLOCKS, SIZE)
    one_each = tl.full((SIZE,), 1.0, tl.float32)
    edge = max_key_reaching(block_keys, one_each, HELD + 1.0, nothing, max_key) + 1
    count = list_blocks(block_keys, edge, block_ids)
    values, blocks = load_blocks(row, block_ids, 0, count, VOCAB, BLOCK, HELD)
    keys = order_key(values)
    weights = tl.where(keys >= edge, relative_weights(values, row_max, factor), 0.0)

    # If min_weight drops some of what they hold, it drops all that they do not hold.
    drops = tl.max(((keys >= edge) & (weights < min_weight)).to(tl.int32)) > 0
    floor = min_key
    if has_top_k:
        each = (keys >= edge).to(tl.float32)
        goal = top_k.to(tl.float32)
        if drops | (edge == min_key) | (tl.sum(each) >= goal):
            floor = max_key_reaching(keys, each, goal, edge, max_key)
        else:
            # top_k blocks have a value of at least this.
            block_keys = block_order_keys(block_max, dtype, BLOCKS, SIZE)
            floor = max_key_reaching(block_keys, one_each, goal, min_key, max_key)
            count = list_blocks(block_keys, floor, block_ids)
            floor = search_blocks(
                *(row, block_ids, count, row_max, factor, min_weight, goal, floor, edge - 1),
                *(True, VOCAB, BLOCK, TILE),
            )

    # Whether the blocks in registers hold all that is kept.
    whole = drops | (floor >= edge)
    weights = tl.where((keys >= floor) & (weights >= min_weight), weights, 0.0)
    if top_p < 1.0:
        held_mass = tl.sum(weights)
        mass = tl.where(whole, held_mass, total)
        if (whole == 0) & (has_top_k | (min_weight > 0.0)):
            block_keys = block_order_keys(block_max, dtype, BLOCKS, SIZE)
            count = list_blocks(block_keys, floor, block_ids)
            mass = sum_blocks(
                *(row, block_ids, block_sums, count, row_max, factor, floor, min_weight),
                *(VOCAB, BLOCK, TILE, SIZE),
            )
        goal = top_p * mass
        if whole | (held_mass >= goal):
            floor = max_key_reaching(keys, weights, goal, tl.maximum(floor, edge), max_key)
            whole = floor >= edge
        else:
            # All tokens under this together weigh too little to matter.
            bound = row_max + tl.log2((1.0 - top_p) * mass / VOCAB) / factor
            floor = tl.maximum(floor, order_key(bound.to(dtype)) - 1)
            block_keys = block_order_keys(block_max, dtype, BLOCKS, SIZE)
            count = list_blocks(block_keys, floor, block_ids)
            floor = search_blocks(
                *(row, block_ids, count, row_max, factor, min_weight, goal, floor, edge - 1),
                *(False, VOCAB, BLOCK, TILE),
            )

    if whole:
        held_sums = tl.sum(tl.where(keys >= floor, weights, 0.0), axis=1)
        index, rest = pick_share(held_sums, number)
        block = tl.sum(tl.where(tl.arange(0, HELD) == index, blocks, 0))
    else:
        block_keys = block_order_keys(block_max, dtype, BLOCKS, SIZE)
        count = list_blocks(block_keys, floor, block_ids)
        sum_blocks(
            *(row, block_ids, block_sums, count, row_max, factor, floor, min_weight),
            *(VOCAB, BLOCK, TILE, SIZE),
        )
        block, rest = pick_listed(block_ids, block_sums, count, number, SIZE, BLOCK)
    return token_within(row, block * BLOCK, row_max, factor, floor, min_weight, rest, VOCAB, BLOCK)
