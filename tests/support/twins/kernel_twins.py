"""What the CPU kernels compute, in plain torch and float64, and how far rounding may stray."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from support.builders.cpu_kernels import EPS

_GROUP = 32
_MIN_SCALE = 2.0**-126
# Of bfloat16, which has 8 significant bits: half of the last one.
_HALF_BIT = 2.0**-8
# What float32 loses in sums of some thousand products, for each unit of their magnitudes.
_SUM_ERROR = 1e-5


@dataclass(frozen=True)
class Expected:
    """Exact values, and the error that float32 sums may have before they are rounded."""

    value: Tensor
    slack: Tensor

    def check(self, found: Tensor) -> None:
        """That bfloat16 values are these within their own rounding and the slack."""
        error = (found.double() - self.value).abs()
        allowed = self.value.abs() * _HALF_BIT + self.slack * (1 + _HALF_BIT) + 1e-38
        assert found.shape == self.value.shape
        assert bool((error <= allowed).all()), float((error / allowed).max())

    def __add__(self, other: Tensor) -> "Expected":
        return Expected(self.value + other.double(), self.slack + other.double().abs() * 2.0**-22)

    def gate(self, factor: "Expected") -> "Expected":
        """silu(self) * factor. The slope of silu is at most 1.1."""
        silu = functional.silu(self.value)
        gate_slack = 1.1 * self.slack + silu.abs() * 1e-6
        slack = gate_slack * (factor.value.abs() + factor.slack) + silu.abs() * factor.slack
        return Expected(silu * factor.value, slack)


def quantized_weight(weight: Tensor, weight_format: str) -> Tensor:
    """Weights as they are after packing, float64."""
    wide = weight.float()
    if weight_format == "bf16":
        return wide.double()
    if weight_format == "int8":
        return _in_8_bits(wide)
    groups = wide.view(len(wide), -1, _GROUP)
    indexes = groups.abs().argmax(dim=-1, keepdim=True)
    scales = (groups.gather(-1, indexes) / -8).bfloat16().float()
    ratios = torch.where(scales == 0, 0.0, groups / scales)
    return (ratios.round().clamp(-8, 7).double() * scales.double()).view(wide.shape)


def quantized_rows(rows: Tensor, weight_format: str) -> Tensor:
    """Rows in float32 as they are multiplied, float64."""
    if weight_format == "bf16":
        return rows.bfloat16().double()
    if weight_format == "int8":
        return _in_8_bits(rows)
    return _in_8_bits(rows.view(len(rows), -1, _GROUP)).view(rows.shape)


def linear(
    rows: Tensor,
    weight: Tensor,
    weight_format: str,
    bias: Tensor | None = None,
    norm: Tensor | None = None,
) -> Expected:
    """The product before it is rounded; `rows` and `weight` are bfloat16."""
    wide = rows.double()
    if norm is not None:
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS) * norm.double()
    packed = quantized_weight(weight, weight_format)
    multiplied = quantized_rows(wide.float(), weight_format)
    slack = multiplied.abs() @ packed.abs().T * _SUM_ERROR
    if norm is not None:
        # The norm in float32 may round one value of a row the other way.
        step = multiplied.abs().amax(-1, keepdim=True) * 2.0**-7
        slack = slack + step * packed.abs().amax(-1)
    result = Expected(multiplied @ packed.T, slack)
    return result if bias is None else result + bias


def _in_8_bits(values: Tensor) -> Tensor:
    """Whole numbers up to 127 times one float32 scale for the last dimension, ties to even."""
    scales = values.abs().amax(-1, keepdim=True).clamp(min=_MIN_SCALE * 127) / 127
    return (values / scales).round().double() * scales.double()


def rotated(heads: Tensor, norm: Tensor | None, cos: Tensor, sin: Tensor) -> Expected:
    """Heads [tokens, heads, head_dim] with norm and rotary angles [tokens, head_dim / 2]."""
    wide = heads.double()
    if norm is not None:
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS) * norm.double()
    left, right = wide.chunk(2, dim=-1)
    cos, sin = cos.double()[:, None], sin.double()[:, None]
    value = torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
    both = torch.cat((left.abs() + right.abs(),) * 2, dim=-1)
    return Expected(value, both * 1e-6)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Expected:
    """Causal attention of the last queries [T, heads, head_dim] over [length, kv_heads, head_dim].

    Weights are rounded to bfloat16 before values are mixed, each in its own direction.
    """
    group = query.shape[1] // key.shape[1]
    wide, values = (part.double().repeat_interleave(group, dim=1) for part in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query.double(), wide) / query.shape[-1] ** 0.5
    future = torch.ones(len(key), len(key)).triu(1).bool()[len(key) - len(query) :]
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    squares = torch.einsum("hqk,khd->qhd", weights.square(), values.square())
    magnitudes = torch.einsum("hqk,khd->qhd", weights, values.abs())
    slack = 4 * _HALF_BIT * squares.sqrt() + 1e-5 * magnitudes
    return Expected(torch.einsum("hqk,khd->qhd", weights, values), slack)
