"""Logits as integers in the same order, so that a threshold among them is found by bisection."""

import triton
import triton.language as tl


@triton.jit
def order_key(values):
    """An int32 for each value: greater for greater values, the same for both zeros."""
    if values.dtype == tl.float32:
        bits = values.to(tl.int32, bitcast=True)
        magnitude = bits & 0x7FFFFFFF
    else:
        bits = values.to(tl.int16, bitcast=True).to(tl.int32)
        magnitude = bits & 0x7FFF
    return tl.where(bits < 0, -magnitude, bits)


@triton.jit
def upper_middle(low, high):
    """The mean of two keys, rounded up; it cannot overflow."""
    return (low | high) - ((low ^ high) >> 1)


@triton.jit
def max_key_reaching(keys, weights, goal, low, high):
    """The maximum threshold in [low, high] whose weights, of keys no smaller, reach `goal`, or low.

    `keys` and `weights` (float32) have one shape, which alone decides the order of the sums.
    """
    while low < high:
        middle = upper_middle(low, high)
        reached = tl.sum(tl.where(keys >= middle, weights, 0.0)) >= goal
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle - 1)
    return low
