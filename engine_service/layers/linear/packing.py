"""Which form the projections' weights are packed in once they are loaded."""

from functools import partial

import torch

from engine_service.layers.linear.int4_linear import Int4Linear
from engine_service.layers.linear.int8_linear import Int8Linear, Int8WeightLinear
from engine_service.layers.linear.linear import Packing
from engine_service.layers.linear.packed_linear import PackedLinear
from engine_service.layers.linear.row_tiles import in_row_tiles


def choose_packing(
    dtype: torch.dtype,
    device: torch.device,
    quantization: str = "none",
    deterministic: bool = False,
) -> Packing | None:
    """The fastest packing for a quantization (`none`, or on a CPU `int8`, `int4`); None is none.

    Without quantization no bit of a result changes. A deterministic one gives a row the same bits
    whatever is computed beside it.
    """
    if quantization == "int4":
        return _tiled(Int4Linear) if deterministic else Int4Linear
    if quantization == "int8":
        # Without VNNI sums of two products overflow 16 bits.
        if torch.cpu._is_vnni_supported() and _works(Int8Linear, dtype):
            return Int8Linear  # sums of integers have no order
        return _tiled(Int8WeightLinear) if deterministic else Int8WeightLinear
    packs = device.type == "cpu" and dtype is torch.bfloat16 and not deterministic
    return PackedLinear if packs and _works(PackedLinear, dtype) else None


def head_quantization(quantization: str) -> str:
    """That of the output layer: 8 bits, since no later layer evens out its errors."""
    return "int8" if quantization == "int4" else quantization


def _tiled(packing: Packing) -> Packing:
    """The same forms, applied to tiles of rows."""
    return lambda weight, bias: partial(in_row_tiles, packing(weight, bias))


def _works(packing: Packing, dtype: torch.dtype) -> bool:
    """Whether torch has the operators, and the processor computes them."""
    try:
        sample = torch.ones(16, 16, dtype=dtype)
        packing(sample, None)(sample)
    except (AttributeError, RuntimeError):
        return False
    return True
