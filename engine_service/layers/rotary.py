"""Rotary position embedding (Su et al., 2021) with linear, Llama 3 and YaRN frequency scaling."""

import math

import torch
from torch import Tensor

from engine_service.layers.rope_config import RopeConfig

Angles = tuple[Tensor, Tensor]
"""cos and sin of a step's positions, each [T, 1, head_dim]; the first half of sin is negated."""


class RotaryEmbedding:
    """Computes each step's angles once; every layer applies them to its queries and keys."""

    def __init__(self, config: RopeConfig, head_dim: int, device: torch.device) -> None:
        frequencies, self._scale = inverse_frequencies(config, head_dim)
        self._frequencies = frequencies.to(device)

    def angles(self, positions: Tensor, dtype: torch.dtype) -> Angles:
        """cos and sin for positions [T]; computed in float32, then rounded to dtype."""
        half = positions.float()[:, None] * self._frequencies
        cos, sin = half.cos() * self._scale, half.sin() * self._scale
        both = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
        return both[0][:, None].to(dtype), both[1][:, None].to(dtype)


def rotate(heads: Tensor, angles: Angles) -> Tensor:
    """Rotates heads [T, heads, head_dim]; dimension i pairs with i + head_dim / 2."""
    cos, sin = angles
    partners = heads.roll(heads.shape[-1] // 2, dims=-1)
    return (heads * cos).add_(partners.mul_(sin))


def inverse_frequencies(config: RopeConfig, head_dim: int) -> tuple[Tensor, float]:
    """The angle per position of each pair of dimensions, [head_dim / 2] in float32 on the CPU.

    Also returns the factor on cos and sin, which is 1 except for YaRN.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    base = 1.0 / config.theta**exponents
    if config.rope_type == "linear":
        return base / config.factor, 1.0
    if config.rope_type == "llama3":
        return _llama3(config, base), 1.0
    if config.rope_type == "yarn":
        return _yarn(config, base, head_dim), _yarn_scale(config)
    return base, 1.0


def _llama3(config: RopeConfig, base: Tensor) -> Tensor:
    """Llama 3.1's scaling: long waves by the factor, short ones not, the rest interpolated."""
    turns = config.original_max_position_embeddings * base / (2 * math.pi)
    low, high = config.low_freq_factor, config.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * base / config.factor + kept * base


def _yarn(config: RopeConfig, base: Tensor, head_dim: int) -> Tensor:
    """YaRN (Peng et al., 2023), section 3.2: a ramp over dimensions between two turn counts."""

    def dimension_of(turns: float) -> float:
        length = config.original_max_position_embeddings
        return head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(config.theta))

    low, high = dimension_of(config.beta_fast), dimension_of(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    # A ramp of no length would divide by zero.
    span = high - low if high != low else 0.001
    scaled = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / span).clamp(0.0, 1.0)
    return scaled * base / config.factor + (1 - scaled) * base


def _yarn_scale(config: RopeConfig) -> float:
    """YaRN's attention temperature, as a factor on cos and sin."""
    if config.attention_factor is not None:
        return config.attention_factor
    if config.mscale and config.mscale_all_dim:
        return _mscale(config.factor, config.mscale) / _mscale(config.factor, config.mscale_all_dim)
    return _mscale(config.factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
