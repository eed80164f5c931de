"""RMSNorm (Zhang and Sennrich, 2019), with the sums that come before it in a decoder."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.launching import launch_options, overlap_launch, padded


@triton.jit(do_not_specialize=["num_rows"])
def _add_rms_norm(
    hidden,
    residual,
    weight,
    normed,
    summed,
    num_rows,
    eps,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    ADDS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    columns = tl.arange(0, WIDTH)
    inside = columns < SIZE
    kind = weight.dtype.element_ty
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    overlap_launch(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    cells = row * SIZE + columns
    values = tl.load(hidden + cells, mask=inside, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        other = part * num_rows.to(tl.int64) * SIZE + cells
        values += tl.load(hidden + other, mask=inside, other=0.0)
    if ADDS:
        values += tl.load(residual + cells, mask=inside, other=0.0).to(tl.float32)
        # Rounded as the residual stream is, and normed as rounded.
        values = values.to(kind).to(tl.float32)
        tl.store(summed + cells, values, mask=inside)
    rate = tl.rsqrt(tl.sum(values * values) / SIZE + eps)
    tl.store(normed + cells, (values * rate).to(kind).to(tl.float32) * scale, mask=inside)


def add_rms_norm(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The norm of hidden + residual times `weight` [H], and that sum, each [T, H].

    `hidden` is [T, H], or float32 [parts, T, H], which are added up. Without a residual the sum is
    `hidden` itself. The sum is rounded to the weight's type before it is normed.
    """
    parts = hidden.shape[0] if hidden.dim() == 3 else 1
    num_rows, size = hidden.shape[-2:]
    normed = torch.empty((num_rows, size), dtype=weight.dtype, device=hidden.device)
    summed = hidden if residual is None else torch.empty_like(normed)
    _add_rms_norm[(num_rows,)](
        hidden=hidden,
        residual=residual,
        weight=weight,
        normed=normed,
        summed=summed,
        num_rows=num_rows,
        eps=eps,
        SIZE=size,
        WIDTH=padded(size),
        PARTS=parts,
        ADDS=residual is not None,
        num_warps=4 if size <= 4096 else 8,
        **launch_options(hidden.device),
    )
    return normed, summed
