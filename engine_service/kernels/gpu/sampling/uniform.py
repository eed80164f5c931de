"""The random number of a drawn token on a GPU, bit for bit that of `engine_service.seeding`."""

import triton
import triton.language as tl


@triton.jit
def uniform(seed, index, position):
    """`seeding.uniform` of one int64 (the bits of a uint64) and two int32: float64 in [0, 1)."""
    state = _output(_word(seed))
    state = _output(state + _word(index))
    state = _output(state + _word(position))
    return (state >> 11).to(tl.int64).to(tl.float64) * (2.0**-53)


@triton.jit
def _word(number):
    return (number.to(tl.int64).to(tl.uint64) + 1) * 0x9E3779B97F4A7C15


@triton.jit
def _output(state):
    """SplitMix64's output function."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB
    return state ^ (state >> 31)
