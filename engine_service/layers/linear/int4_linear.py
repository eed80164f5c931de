"""Linear layers with weights in 4 bits, in groups of 32 inputs that share a scale; in plain torch.

The maximum magnitude of a group becomes -8, so that all sixteen values are used.
"""

import torch
from torch import Tensor
from torch.nn import functional

from folovllm.errors import ConfigError

GROUP = 32
_OFFSET = 8
_MAX = 15
# Outputs that torch's operator takes at a time; the last ones are padded.
_OUTPUTS = 64


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [outputs, inputs] as whole numbers 0 to 15, int32, and scales [outputs, groups].

    (number - 8) * scale is near the weight. Scales are bfloat16; of several values with the maximum
    magnitude the first counts. Raises ConfigError if inputs are not a multiple of GROUP.
    """
    outputs, inputs = weight.shape
    if inputs % GROUP:
        raise ConfigError(
            f"quantization int4 needs layers of a multiple of {GROUP} inputs, this model has one "
            f"of {inputs}; use int8"
        )
    groups = weight.to(torch.bfloat16).float().view(outputs, -1, GROUP)
    extremes = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scales = (extremes / -_OFFSET).to(torch.bfloat16)
    ratios = torch.where(scales == 0, 0.0, groups / scales.float())
    numbers = (ratios.round_() + _OFFSET).clamp_(0, _MAX).to(torch.int32)
    return numbers.view(outputs, inputs), scales[..., 0]


class Int4Linear:
    """A LinearForm; rows are computed in their own type."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Raises ConfigError if inputs are not a multiple of GROUP."""
        self._outputs = len(weight)
        numbers, scales = quantize_groups(weight.detach())
        missing = -self._outputs % _OUTPUTS
        numbers = functional.pad(numbers, (0, 0, 0, missing))
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers, 1)
        scales = functional.pad(scales, (0, 0, 0, missing)).t().to(weight.dtype)
        # The operator adds an offset for each group, here zero.
        self._scales = torch.stack((scales, torch.zeros_like(scales)), dim=-1).contiguous()
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """[T, inputs] -> [T, outputs]."""
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self._weight, GROUP, self._scales
        )
        output = product[:, : self._outputs]
        return output if self._bias is None else output + self._bias
