"""Operations on the two halves of a head before attention: RMSNorm, and rotation by position.

Rotary positions: Su et al., 2021; dimension i pairs with i + head_dim / 2.
"""

import triton
import triton.language as tl

MAX_FP8 = 448.0
"""The maximum of float8_e4m3fn."""


@triton.jit
def norm_halves(low, high, low_weight, high_weight, eps, HEAD_DIM: tl.constexpr):
    """Heads [heads, half] normed and weighted, rounded to their type in between; float32."""
    first, second = low.to(tl.float32), high.to(tl.float32)
    squares = tl.sum(first * first + second * second, axis=1)[:, None]
    rate = tl.rsqrt(squares / HEAD_DIM + eps)
    first = (first * rate).to(low.dtype).to(tl.float32) * low_weight.to(tl.float32)
    second = (second * rate).to(low.dtype).to(tl.float32) * high_weight.to(tl.float32)
    return first, second


@triton.jit
def rotate_halves(first, second, cos, sin):
    """Both halves of heads, rotated."""
    return first * cos - second * sin, second * cos + first * sin


@triton.jit
def fp8_range(values, FP8_MAX: tl.constexpr):
    """Values clipped to the range of an 8-bit float."""
    return tl.minimum(tl.maximum(values, -FP8_MAX), FP8_MAX)
