"""Which form the projections' weights get once they are loaded."""

import torch

from engine_service.layers.linear.int4_linear import Int4Linear
from engine_service.layers.linear.int8_linear import Int8Linear, Int8WeightLinear
from engine_service.layers.linear.linear import Packing
from engine_service.layers.linear.packed_linear import PackedLinear
from folovllm.errors import ConfigError


def choose_packing(
    dtype: torch.dtype, device: torch.device, quantization: str = "none"
) -> Packing | None:
    """The fastest packing for a quantization (`none`, `int8`, `int4`); None changes no weights.

    Without quantization no bit of a result changes. Raises ConfigError where the device has none.
    """
    if quantization != "none" and device.type != "cpu":
        raise ConfigError(f"quantization {quantization} is for cpu, not for {device}; use none")
    if quantization == "int4":
        return Int4Linear
    if quantization == "int8":
        # Without VNNI sums of two products overflow 16 bits.
        fast = torch.cpu._is_vnni_supported() and _works(Int8Linear, dtype)
        return Int8Linear if fast else Int8WeightLinear
    if device.type == "cpu" and dtype is torch.bfloat16 and _works(PackedLinear, dtype):
        return PackedLinear
    return None


def head_quantization(quantization: str) -> str:
    """That of the output layer: where an error is not evened out by later layers, 8 bits."""
    return "int8" if quantization == "int4" else quantization


def _works(packing: Packing, dtype: torch.dtype) -> bool:
    """Whether torch has the operators, and the processor computes them."""
    try:
        sample = torch.ones(16, 16, dtype=dtype)
        packing(sample, None)(sample)
    except (AttributeError, RuntimeError):
        return False
    return True
