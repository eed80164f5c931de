"""The operators that a decoder applies to each token's row, chosen as a set."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from engine_service.layers.linear.linear import LinearFunction
from engine_service.layers.norm import RMSNorm


@dataclass(frozen=True, slots=True)
class RowOperators:
    """One implementation of each."""

    linear: LinearFunction
    """Also computes the logits."""
    norm: type[RMSNorm]
    silu: Callable[[Tensor], Tensor]
    """x * sigmoid(x), elementwise, in the type of x."""


FASTEST_OPERATORS = RowOperators(functional.linear, RMSNorm, functional.silu)
