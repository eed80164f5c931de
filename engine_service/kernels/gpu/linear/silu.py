"""The gate of a SwiGLU feed-forward layer (Shazeer, 2020)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.launching import launch_options, overlap_launch

_WIDTH = 1024


@triton.jit
def gated(gate, up, kind):
    """silu(gate) * up in float32, with both, and silu, rounded to the type `kind`."""
    wide = gate.to(kind).to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(kind).to(tl.float32)
    return silu * up.to(kind).to(tl.float32)


@triton.jit
def _silu_mul(gate_up, out, SIZE: tl.constexpr, WIDTH: tl.constexpr, OVERLAP: tl.constexpr):
    overlap_launch(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < SIZE
    gate = tl.load(gate_up + row * 2 * SIZE + columns, mask=inside, other=0.0)
    up = tl.load(gate_up + row * 2 * SIZE + SIZE + columns, mask=inside, other=0.0)
    tl.store(out + row * SIZE + columns, gated(gate, up, gate.dtype), mask=inside)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, [T, I], of rows that hold a gate and an up, [T, 2 * I]."""
    num_rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_rows, size), dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul[(num_rows, triton.cdiv(size, _WIDTH))](
        gate_up, out, SIZE=size, WIDTH=_WIDTH, num_warps=4, **launch_options(gate_up.device)
    )
    return out
