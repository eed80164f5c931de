"""Linear layers: a weight as checkpoints store it, or in a form made only for computing."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

LinearFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(rows [T, inputs], weight [outputs, inputs], bias [outputs] or None) -> [T, outputs]."""

LinearForm = Callable[[Tensor], Tensor]
"""A weight, with its bias, ready to multiply: rows [T, inputs] -> [T, outputs], in their type."""

Packing = Callable[[Tensor, Tensor | None], LinearForm]
"""Makes a form of a weight [outputs, inputs] and a bias [outputs] or None; keeps no reference."""


class Linear(nn.Linear):
    """A projection without gradients; its parameters are made on the meta device."""

    def __init__(
        self, inputs: int, outputs: int, bias: bool, dtype: torch.dtype, function: LinearFunction
    ) -> None:
        super().__init__(inputs, outputs, bias=bias, dtype=dtype, device="meta")
        self.requires_grad_(False)
        self._function = function
        self._form: LinearForm | None = None

    def pack(self, packing: Packing) -> None:
        """Replaces the parameters with the packed form."""
        self._form = packing(self.weight, self.bias)
        del self.weight, self.bias

    def forward(self, rows: Tensor) -> Tensor:
        """[T, inputs] -> [T, outputs]."""
        if self._form is not None:
            return self._form(rows)
        return self._function(rows, self.weight, self.bias)
