"""Weights of a row's tokens, and the choice of one of them by its share."""

import triton
import triton.language as tl

from engine_service.kernels.gpu.sampling.order_keys import order_key

_LOG2_E = tl.constexpr(1.4426950408889634)
# As in the sampler for other devices.
_LEAST_TEMPERATURE = tl.constexpr(1e-30)


@triton.jit
def inverse_temperature(temperature):
    """The factor of differences of logits, for powers of 2; that of temperature 1 where it is 0."""
    divisor = tl.where(temperature > 0.0, tl.maximum(temperature, _LEAST_TEMPERATURE), 1.0)
    return _LOG2_E / divisor


@triton.jit
def relative_weights(values, largest, factor):
    """Probabilities relative to that of the value `largest`, float32."""
    # The difference comes first, so that no temperature overflows.
    return tl.exp2((values.to(tl.float32) - largest) * factor)


@triton.jit
def kept_weights(values, largest, factor, floor, min_p):
    """The same, but 0 for what is under the key `floor` or the weight `min_p`."""
    weights = relative_weights(values, largest, factor)
    return tl.where((order_key(values) >= floor) & (weights >= min_p), weights, 0.0)


@triton.jit
def pick(weights, target):
    """The first place whose cumulated weight is over `target`, and what is left of it there.

    `weights` is one-dimensional float32, one of them at least over 0; so is that of the place.
    """
    places = tl.arange(0, weights.shape[0])
    wide = weights.to(tl.float64)
    over = (tl.cumsum(wide) > target) & (weights > 0.0)
    # Rounding may leave the target at the sum of all, which no place is over.
    last = tl.max(tl.where(weights > 0.0, places, 0))
    place = tl.min(tl.where(over, places, last))
    return place, target - tl.sum(tl.where(places < place, wide, 0.0))


@triton.jit
def pick_share(weights, number):
    """What `pick` finds for `number`, float64 in [0, 1), of the sum of all weights."""
    return pick(weights, number * tl.sum(weights).to(tl.float64))


@triton.jit
def token_within(
    row, start, largest, factor, floor, min_p, target, VOCAB: tl.constexpr, SIZE: tl.constexpr
):
    """The id that `target` picks from the SIZE ids from `start` on, among those that are kept."""
    ids = start + tl.arange(0, SIZE)
    values = tl.load(row + ids, mask=ids < VOCAB, other=float("-inf"))
    place, _ = pick(kept_weights(values, largest, factor, floor, min_p), target)
    return start + place
