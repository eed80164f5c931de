"""Weights in oneDNN's own blocked layout, for bfloat16 on a CPU.

Each product would otherwise convert the weight again. The results have the same bits.
"""

import torch
from torch import Tensor

# The number of rows that the layout is chosen for; one layout serves all numbers about as well.
_ROWS = 32


class PackedLinear:
    """A LinearForm. Raises AttributeError or RuntimeError if torch has no such operator."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """[T, inputs] -> [T, outputs]."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self._bias, "none", [], ""
        )
        return output
