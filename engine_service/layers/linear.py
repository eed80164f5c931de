"""Linear layers, computed by the function that they are given."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

LinearFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(rows [T, inputs], weight [outputs, inputs], bias [outputs] or None) -> [T, outputs]."""


class Linear(nn.Linear):
    """A projection without gradients; its parameters are made on the meta device."""

    def __init__(
        self, inputs: int, outputs: int, bias: bool, dtype: torch.dtype, function: LinearFunction
    ) -> None:
        super().__init__(inputs, outputs, bias=bias, dtype=dtype, device="meta")
        self.requires_grad_(False)
        self._function = function

    def forward(self, rows: Tensor) -> Tensor:
        """[T, inputs] -> [T, outputs]."""
        return self._function(rows, self.weight, self.bias)
