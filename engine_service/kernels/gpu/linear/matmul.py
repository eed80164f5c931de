"""Products of a weight with some dozens of rows, still bound by reading the weight.

The weight's tiles are the tall operand, so that tensor cores are full with few rows. A weight with
few outputs is also split along its inputs, as in `gemv`, to give every multiprocessor work.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.launching import launch_options, overlap_launch, padded
from engine_service.kernels.gpu.linear.silu import gated

MAX_ROWS = 64
"""The most that this is made for."""


@dataclass(frozen=True, slots=True)
class MatmulTiling:
    """A program's share, and how it is computed; powers of two except stages."""

    outputs: int = 64
    """Of a gated weight, so many of its gates and of its ups."""
    inputs: int = 128
    """Inputs that are multiplied at once."""
    share: int = 1024
    """Inputs of a program, if the weight is split along them."""
    stages: int = 4
    warps: int = 4


DEFAULT_TILING = MatmulTiling()


@triton.jit(do_not_specialize=["num_rows"])
def _matmul(
    rows,
    weight,
    bias,
    out,
    num_rows,
    num_outputs,
    NUM_INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    SHARE: tl.constexpr,
    STAGES: tl.constexpr,
    GATED: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    overlap_launch(OVERLAP)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.arange(0, ROWS)
    is_output = output < num_outputs
    is_row = row < num_rows
    first = tl.program_id(1) * SHARE
    sums = tl.zeros([OUTPUTS, ROWS], tl.float32)
    up = tl.zeros([OUTPUTS, ROWS], tl.float32)
    up_weight = weight + num_outputs.to(tl.int64) * NUM_INPUTS
    starts = output[:, None].to(tl.int64) * NUM_INPUTS
    for start in tl.range(0, SHARE, INPUTS, num_stages=STAGES):
        column = first + start + tl.arange(0, INPUTS)
        is_input = column < NUM_INPUTS
        inside = is_output[:, None] & is_input[None, :]
        values = tl.load(
            rows + row[None, :] * NUM_INPUTS + column[:, None],
            mask=is_row[None, :] & is_input[:, None],
            other=0.0,
        )
        tile = tl.load(weight + starts + column[None, :], mask=inside, other=0.0)
        sums = tl.dot(tile, values, sums, input_precision="ieee")
        if GATED:
            up_tile = tl.load(up_weight + starts + column[None, :], mask=inside, other=0.0)
            up = tl.dot(up_tile, values, up, input_precision="ieee")
    if bias is not None:
        more = tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[:, None]
        sums += tl.where(tl.program_id(1) == 0, more, 0.0)
    kind = weight.dtype.element_ty
    if GATED:
        sums = gated(sums, up, kind)
    target = out + tl.program_id(1).to(tl.int64) * num_rows * num_outputs
    cells = row[None, :] * num_outputs + output[:, None]
    tl.store(target + cells, sums, mask=is_output[:, None] & is_row[None, :])


def matmul(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gated: bool = False,
    split: bool = False,
    tiling: MatmulTiling = DEFAULT_TILING,
) -> Tensor:
    """As `gemv`, for at most MAX_ROWS rows and any number of inputs."""
    num_rows, num_inputs = rows.shape
    num_outputs = len(weight) // 2 if gated else len(weight)
    share = tiling.share if split else triton.cdiv(num_inputs, tiling.inputs) * tiling.inputs
    parts = triton.cdiv(num_inputs, share)
    out = torch.empty(
        (parts, num_rows, num_outputs) if split else (num_rows, num_outputs),
        dtype=torch.float32 if split else weight.dtype,
        device=rows.device,
    )
    _matmul[(triton.cdiv(num_outputs, tiling.outputs), parts)](
        rows,
        weight,
        bias,
        out,
        num_rows,
        num_outputs,
        NUM_INPUTS=num_inputs,
        ROWS=padded(num_rows, 16),
        OUTPUTS=tiling.outputs,
        INPUTS=tiling.inputs,
        SHARE=share,
        STAGES=tiling.stages,
        GATED=gated,
        num_warps=tiling.warps,
        **launch_options(rows.device),
    )
    return out
