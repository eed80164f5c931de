"""Root mean square normalisation (Zhang and Sennrich, 2019)."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Scales the last dimension to a root mean square of 1, then by a weight.

    Computed in float32 and rounded to the input's type before the weight, as these families were
    trained.
    """

    def __init__(self, size: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(
            torch.empty(size, dtype=dtype, device="meta"), requires_grad=False
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., size] -> [..., size], in the input's type."""
        wide = hidden.float()
        # In place on new tensors: large ones cost more to allocate than to fill.
        factors = wide.square().mean(-1, keepdim=True).add_(self.eps).rsqrt_()
        return (wide * factors).to(hidden.dtype).mul_(self.weight)
