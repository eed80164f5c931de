"""The operators that a decoder applies to each token's row by itself, to be chosen as a set."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from engine_service.layers.linear import LinearFunction
from engine_service.layers.norm import RMSNorm


@dataclass(frozen=True, slots=True)
class RowOperators:
    """The fastest ones, unless others are given."""

    linear: LinearFunction = functional.linear
    """Also computes the logits."""
    norm: type[RMSNorm] = RMSNorm
    silu: Callable[[Tensor], Tensor] = functional.silu
    """x * sigmoid(x), elementwise, in the type of x."""
