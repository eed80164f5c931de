"""Randomness that can be repeated: the number behind each drawn token.

The number is a pure function of (seed, sequence index, position), so that a request gives the same
tokens in any batch, chunking, preemption or replica. Nothing else may influence a draw.
"""

import random

from folovllm.errors import InvalidRequestError

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15


def set_random_seed(seed: int) -> None:
    """Seeds Python, numpy and torch, for draws of the caller's own.

    What a request draws depends on its own seed and on nothing that is set here. Raises
    InvalidRequestError for a seed that is no whole number from 0 to 2**64 - 1.
    """
    if not isinstance(seed, int) or not 0 <= seed <= _MASK:
        raise InvalidRequestError("seed", f"seed must be a whole number from 0 on, got {seed!r}")
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def uniform(seed: int, index: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, for one token of one sequence.

    `seed` counts modulo 2**64. Each word picks an output of the SplitMix64 generator whose state
    the words before it made: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014. Only 64-bit integer arithmetic, so that any device can compute it.
    """
    state = 0
    for word in (seed, index, position):
        state = _finalise((state + (word + 1) * _GAMMA) & _MASK)
    return float(state >> 11) * 2.0**-53


def _finalise(state: int) -> int:
    """SplitMix64's output function (Stafford's variant 13 of MurmurHash3's finaliser)."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
