"""Linear layers in 8 bits: int8 weights with a scale for each output, symmetric.

If oneDNN has the operator, rows are rounded to 8 bits too, each with its own scale, and products
are summed in integers. Otherwise only the weight is in 8 bits.
"""

import torch
from torch import Tensor
from torch.nn import functional

_MAX = 127.0
_ZERO_POINT = 128
# Rows that are rounded together: their float32 copy stays in the processor's cache.
_ROWS_AT_ONCE = 512


def quantize_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values [rows, columns] and float32 scales [rows, 1]; their product is near `values`.

    A row's maximum magnitude becomes 127; a row of zeros stays zeros. A row with NaN or an infinity
    has such a scale.
    """
    wide = values.float()
    maxima = wide.abs().amax(-1, keepdim=True)
    # The minimum normal number keeps a row of zeros from dividing by zero.
    scales = maxima.clamp_(min=torch.finfo(torch.float32).tiny * _MAX).div_(_MAX)
    return (wide / scales).round_().to(torch.int8), scales


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of a large weight [outputs, inputs], piece by piece."""
    quantized = torch.empty_like(weight, dtype=torch.int8)
    scales = weight.new_empty(len(weight), 1, dtype=torch.float32)
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        piece = slice(start, start + _ROWS_AT_ONCE)
        quantized[piece], scales[piece] = quantize_rows(weight[piece])
    return quantized, scales


class Int8Linear:
    """A LinearForm with rows and weight in 8 bits (W8A8), for processors with VNNI.

    Raises AttributeError or RuntimeError if torch has no such operator.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        quantized, scales = quantize_weight(weight.detach())
        self._weight = torch.ops.onednn.qlinear_prepack(quantized, None)
        self._scales = scales.flatten()
        self._zero_points = torch.zeros(1, dtype=torch.int64)
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """[T, inputs] -> [T, outputs]."""
        quantized, scales = quantize_rows(rows)
        output: Tensor = torch.ops.onednn.qlinear_pointwise(
            # The operator takes unsigned rows: v + 128 is v with its sign bit flipped.
            quantized.view(torch.uint8).bitwise_xor_(_ZERO_POINT),
            1.0,
            _ZERO_POINT,
            self._weight,
            self._scales,
            self._zero_points,
            None,
            1.0,
            0,
            rows.dtype,
            "none",
            [],
            "",
        )
        # The operator has one scale for all rows; each row's own is applied after it.
        output.mul_(scales)
        return output if self._bias is None else output.add_(self._bias)


class Int8WeightLinear:
    """A LinearForm with only the weight in 8 bits, in plain torch; slow, but half the memory."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, scales = quantize_weight(weight.detach())
        self._scales = scales.flatten()
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """[T, inputs] -> [T, outputs]."""
        # Whole numbers up to 127 are exact in bfloat16.
        output = functional.linear(rows, self._weight.to(rows.dtype)).mul_(self._scales)
        return output if self._bias is None else output.add_(self._bias)
