"""Weights in oneDNN's own blocked layout, for bfloat16 on a CPU.

A plain weight is put into that layout again in each product. The results have the same bits.
"""

import torch
from torch import Tensor

from engine_service.layers.linear import Packing

# The rows that the layout is chosen for; it hardly changes, and one layout serves all numbers.
_ROWS = 32


class PackedLinear:
    """A LinearForm. Raises RuntimeError where the processor or torch has no such operator."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """[T, inputs] -> [T, outputs]."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self._bias, "none", [], ""
        )
        return output


def choose_packing(dtype: torch.dtype, device: torch.device) -> Packing | None:
    """The packing that makes products faster without changing a bit of them; None where none."""
    if device.type != "cpu" or dtype is not torch.bfloat16:
        return None
    try:
        sample = torch.ones(16, 16, dtype=dtype)
        PackedLinear(sample, None)(sample)
    except (AttributeError, RuntimeError):  # an operator that torch lacks, or the processor
        return None
    return PackedLinear
