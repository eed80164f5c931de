"""Row operators whose result for a row depends only on that row, to the last bit.

A matrix product or a reduction may order its additions by the shape of its operands, so a row's
result changes with the number of rows beside it. Here every call has TILE_ROWS rows, padded with
zeros: one shape, one order. That the order is also the same at every index of a tile is a property
of the libraries beneath, which the tests check. (The idea: He et al., "Defeating Nondeterminism in
LLM Inference", Thinking Machines Lab, 2025.)
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from engine_service.layers.linear.row_operators import RowOperators
from engine_service.layers.norm import RMSNorm

# Fewer waste less where one sequence decodes, more read the weights less often for many.
TILE_ROWS = 16


def in_row_tiles(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Applies `function`, [TILE_ROWS, …] -> [TILE_ROWS, …], to rows [T, …] of any number."""
    count = rows.shape[0]
    padded = rows.new_zeros(-(-count // TILE_ROWS) * TILE_ROWS, *rows.shape[1:])
    padded[:count] = rows
    results = [function(tile) for tile in padded.split(TILE_ROWS)]  # type: ignore[no-untyped-call]
    return torch.cat(results)[:count]


def tiled_linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See LinearFunction."""
    return in_row_tiles(lambda tile: functional.linear(tile, weight, bias), rows)


class TiledRMSNorm(RMSNorm):
    """RMSNorm in tiles of rows; of a tensor [T, heads, size], T counts the rows."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[T, …, size] -> [T, …, size], in the input's type."""
        return in_row_tiles(super().forward, hidden)


def exact_silu(values: Tensor) -> Tensor:
    """x / (1 + exp(-x)) in float32, rounded to the type of x.

    On a CPU torch's own silu and sigmoid compute the last elements of a tensor without vectors, so
    with other bits than the rest. exp does not.
    """
    wide = values.float()
    return (wide / (torch.exp(-wide) + 1.0)).to(values.dtype)


TILED_OPERATORS = RowOperators(tiled_linear, TiledRMSNorm, exact_silu)
