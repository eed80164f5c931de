"""Weights of a row's tokens, and the choice of one of them by its share."""

import triton
import triton.language as tl

from engine_service.kernels.gpu.sampling.order_keys import order_key

_LOG2_E = tl.constexpr(1.4426950408889634)
# As in the sampler for other devices.
_MIN_TEMPERATURE = tl.constexpr(1e-30)


@triton.jit
def inverse_temperature(temperature):
    """The factor of logit differences, for powers of 2; that of temperature 1 if it is 0."""
    divisor = tl.where(temperature > 0.0, tl.maximum(temperature, _MIN_TEMPERATURE), 1.0)
    return _LOG2_E / divisor


@triton.jit
def relative_weights(values, row_max, factor):
    """Probabilities relative to that of the maximum, float32."""
    # The difference comes first, so that no temperature overflows.
    return tl.exp2((values.to(tl.float32) - row_max) * factor)


@triton.jit
def kept_weights(values, row_max, factor, floor, min_weight):
    """The same, but 0 for what is under the key `floor` or the weight `min_weight`."""
    weights = relative_weights(values, row_max, factor)
    return tl.where((order_key(values) >= floor) & (weights >= min_weight), weights, 0.0)


@triton.jit
def pick(weights, target):
    """The first index whose cumulative weight is over `target`, and the rest of `target` there.

    `weights` is one-dimensional float32, at least one of them over 0; so is the one at the index.
    """
    indexes = tl.arange(0, weights.shape[0])
    wide = weights.to(tl.float64)
    over = (tl.cumsum(wide) > target) & (weights > 0.0)
    # Rounding may leave the target at the sum of all, which no index is over.
    last = tl.max(tl.where(weights > 0.0, indexes, 0))
    index = tl.min(tl.where(over, indexes, last))
    return index, target - tl.sum(tl.where(indexes < index, wide, 0.0))


@triton.jit
def pick_share(weights, number):
    """What `pick` finds for `number`, float64 in [0, 1), of the sum of all weights."""
    return pick(weights, number * tl.sum(weights).to(tl.float64))


@triton.jit
def token_within(
    row, start, row_max, factor, floor, min_weight, target, VOCAB: tl.constexpr, SIZE: tl.constexpr
):
    """The id that `target` picks among the kept ones of the SIZE ids from `start` on."""
    ids = start + tl.arange(0, SIZE)
    values = tl.load(row + ids, mask=ids < VOCAB, other=float("-inf"))
    index, _ = pick(kept_weights(values, row_max, factor, floor, min_weight), target)
    return start + index
