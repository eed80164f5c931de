"""Products of a weight with a few rows, which take as long as the weight takes to be read.

Each program requests its whole share of the weight at once, before it waits for the rows, so the
memory is busy while the kernel before it still ends. A weight with few outputs is also split along
its inputs; the next kernel adds up the float32 parts, in a fixed order, as it reads them.

Up to two rows are multiplied without tensor cores, and such a kernel may also do what comes before
it in a decoder: add up parts, add the residual stream and norm the sum. Every program then repeats
that, which costs less than a launch.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.launching import launch_options, overlap_launch, padded
from engine_service.kernels.gpu.linear.silu import gated

MAX_ROWS = 8
"""The most that this is made for."""
MAX_NORMED_ROWS = 2
"""The most that every program can norm."""
MAX_INPUTS = 2048
"""The most that one program multiplies; a norm needs all inputs in one program."""
# Tensor cores multiply at least this many rows.
_TENSOR_CORE_ROWS = 16


@dataclass(frozen=True, slots=True)
class GemvTiling:
    """A program's share of the weight; powers of two."""

    outputs: int = 16
    """Of a gated weight, so many of its gates and of its ups."""
    inputs: int = 1024
    """Where the weight is split along them."""
    warps: int = 4


DEFAULT_TILING = GemvTiling()


@triton.jit
def _gemv(
    rows,
    residual,
    norm_weight,
    weight,
    bias,
    out,
    summed,
    eps,
    num_outputs,
    M: tl.constexpr,
    NUM_INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    PARTS: tl.constexpr,
    NORM: tl.constexpr,
    GATED: tl.constexpr,
    CORES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    column = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    is_output = output < num_outputs
    is_input = column < NUM_INPUTS
    inside = is_output[:, None] & is_input[None, :]
    cells = output[:, None].to(tl.int64) * NUM_INPUTS + column[None, :]
    tile = tl.load(weight + cells, mask=inside, other=0.0)
    if GATED:
        up_weight = weight + num_outputs.to(tl.int64) * NUM_INPUTS
        up_tile = tl.load(up_weight + cells, mask=inside, other=0.0)
    if NORM:
        scale = tl.load(norm_weight + column, mask=is_input, other=0.0).to(tl.float32)
    overlap_launch(OVERLAP)

    kind = weight.dtype.element_ty
    # The first parts of a split sum are those of the first inputs.
    target = out + tl.program_id(1) * M * num_outputs + output
    if CORES:
        row = tl.arange(0, 16)
        read = (row < M)[:, None] & is_input[None, :]
        values = tl.load(rows + row[:, None] * NUM_INPUTS + column[None, :], mask=read, other=0.0)
        sums = tl.dot(tile, tl.trans(values), input_precision="ieee")
        if bias is not None:
            more = tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[:, None]
            sums += tl.where(tl.program_id(1) == 0, more, 0.0)
        if GATED:
            up = tl.dot(up_tile, tl.trans(values), input_precision="ieee")
            sums = gated(sums, up, kind)
        written = is_output[:, None] & (row < M)[None, :]
        tl.store(target[:, None] + row[None, :] * num_outputs, sums, mask=written)
    else:
        for m in tl.static_range(M):
            index = m * NUM_INPUTS + column
            values = tl.load(rows + index, mask=is_input, other=0.0).to(tl.float32)
            if NORM:
                for part in tl.static_range(1, PARTS):
                    more = part * M * NUM_INPUTS + index
                    values += tl.load(rows + more, mask=is_input, other=0.0).to(tl.float32)
                if residual is not None:
                    values += tl.load(residual + index, mask=is_input, other=0.0).to(tl.float32)
                    values = values.to(kind).to(tl.float32)
                    if tl.program_id(0) == 0:
                        tl.store(summed + index, values, mask=is_input)
                rate = tl.rsqrt(tl.sum(values * values) / NUM_INPUTS + eps)
                values = (values * rate).to(kind).to(tl.float32) * scale
                values = values.to(kind).to(tl.float32)
            sums = tl.sum(tile.to(tl.float32) * values[None, :], axis=1)
            if bias is not None:
                more = tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)
                sums += tl.where(tl.program_id(1) == 0, more, 0.0)
            if GATED:
                up = tl.sum(up_tile.to(tl.float32) * values[None, :], axis=1)
                sums = gated(sums, up, kind)
            tl.store(target + m * num_outputs, sums, mask=is_output)


def gemv(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gated: bool = False,
    split: bool = False,
    tiling: GemvTiling = DEFAULT_TILING,
) -> Tensor:
    """Rows [M, inputs] times `weight` [outputs, inputs], plus `bias` [outputs]; M <= MAX_ROWS.

    The result is [M, outputs] in the weight's type; with `gated`, whose weight holds all gates
    before all ups and has no bias, silu(gate) * up, [M, outputs / 2]; or with `split` the parts of
    the sums, float32 [parts, M, outputs]. Without it inputs are at most MAX_INPUTS.
    """
    inputs = tiling.inputs if split else padded(weight.shape[1], _TENSOR_CORE_ROWS)
    parts = triton.cdiv(weight.shape[1], inputs)
    num_outputs = len(weight) // 2 if gated else len(weight)
    out = torch.empty(
        (parts, len(rows), num_outputs) if split else (len(rows), num_outputs),
        dtype=torch.float32 if split else weight.dtype,
        device=rows.device,
    )
    cores = len(rows) > MAX_NORMED_ROWS
    outputs = max(tiling.outputs, _TENSOR_CORE_ROWS) if cores else tiling.outputs
    _gemv[(triton.cdiv(num_outputs, outputs), parts)](
        rows=rows,
        residual=None,
        norm_weight=None,
        weight=weight,
        bias=bias,
        out=out,
        summed=None,
        eps=0.0,
        num_outputs=num_outputs,
        M=len(rows),
        NUM_INPUTS=weight.shape[1],
        OUTPUTS=outputs,
        INPUTS=inputs,
        PARTS=1,
        NORM=False,
        GATED=gated,
        CORES=cores,
        num_warps=tiling.warps,
        **launch_options(rows.device),
    )
    return out


def norm_gemv(
    hidden: Tensor,
    residual: Tensor | None,
    norm_weight: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gated: bool = False,
    tiling: GemvTiling = DEFAULT_TILING,
) -> tuple[Tensor, Tensor]:
    """`gemv` of what `add_rms_norm` makes of its arguments, and the sum that it makes.

    For at most MAX_NORMED_ROWS rows of at most MAX_INPUTS.
    """
    parts = hidden.shape[0] if hidden.dim() == 3 else 1
    num_rows, size = hidden.shape[-2:]
    num_outputs = len(weight) // 2 if gated else len(weight)
    out = torch.empty((num_rows, num_outputs), dtype=weight.dtype, device=hidden.device)
    summed = hidden if residual is None else torch.empty_like(residual)
    _gemv[(triton.cdiv(num_outputs, tiling.outputs), 1)](
        rows=hidden,
        residual=residual,
        norm_weight=norm_weight,
        weight=weight,
        bias=bias,
        out=out,
        summed=summed,
        eps=eps,
        num_outputs=num_outputs,
        M=num_rows,
        NUM_INPUTS=size,
        OUTPUTS=tiling.outputs,
        INPUTS=padded(size),
        PARTS=parts,
        NORM=True,
        GATED=gated,
        CORES=False,
        num_warps=tiling.warps,
        **launch_options(hidden.device),
    )
    return out, summed
