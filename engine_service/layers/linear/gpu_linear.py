"""GpuLinear: a projection on a GPU, by the kernel that is fastest for the number of rows."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from engine_service.kernels.gpu.linear import gemv, matmul
from engine_service.kernels.gpu.linear.gemv import GemvTiling
from engine_service.kernels.gpu.linear.matmul import MatmulTiling
from engine_service.kernels.gpu.linear.norm import add_rms_norm
from engine_service.kernels.gpu.linear.silu import silu_mul
from engine_service.layers.linear.tuner import Tuner

KernelChoice = GemvTiling | MatmulTiling | None
"""One of our kernels with its tiling, or None, torch's own."""

TUNED_ROWS = (1, 8, 16, 32, 64)
"""Numbers of rows that a kernel is chosen for; others use that of the next larger one."""


class GpuLinear:
    """Weight [outputs, inputs] and bias [outputs] or None.

    With `gated` the weight's gates come before its ups and the result is silu(gate) * up. With
    `split` the result may come in parts, float32 [parts, T, outputs], still to be added up: see
    `add_rms_norm`.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, gated: bool = False, split: bool = False
    ) -> None:
        assert not (gated and bias is not None), "gates with a bias have no kernel"
        self.weight, self.bias = weight, bias
        self._gated, self._split = gated, split
        self._flags = {"gated": gated, "split": split}
        self._choices = {rows: self.choices(rows)[0] for rows in TUNED_ROWS}

    def __call__(self, rows: Tensor) -> Tensor:
        """[T, inputs] -> [T, outputs], or in parts."""
        return self.multiply(rows, self._choice(len(rows)))

    def normed(
        self, hidden: Tensor, residual: Tensor | None, norm_weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """The product of `add_rms_norm`'s norm, and its sum."""
        num_rows, size = hidden.shape[-2:]
        choice = self._choice(num_rows)
        if num_rows <= gemv.MAX_NORMED_ROWS and size <= gemv.MAX_INPUTS:
            tiling = choice if isinstance(choice, GemvTiling) else gemv.DEFAULT_TILING
            return gemv.norm_gemv(
                hidden,
                residual,
                norm_weight,
                eps,
                self.weight,
                self.bias,
                gated=self._gated,
                tiling=tiling,
            )
        normed, summed = add_rms_norm(hidden, residual, norm_weight, eps)
        return self.multiply(normed, choice), summed

    def choices(self, num_rows: int) -> list[KernelChoice]:
        """All kernels that can multiply so many rows, the likeliest first."""
        if num_rows > matmul.MAX_ROWS:
            return [None]
        found: list[KernelChoice] = [MatmulTiling(64, share=512), MatmulTiling(64)]
        if not self._split:
            found = [MatmulTiling(64), MatmulTiling(64, 64, stages=6)]
        if num_rows > gemv.MAX_ROWS or not self._fits_gemv():
            return [*found, None]
        if num_rows > gemv.MAX_NORMED_ROWS:
            small = [GemvTiling(32, 512, 8), GemvTiling(16, 512)]
            return [*found[:1], *small, None] if self._gated else [*small, *found[:1], None]
        if self._split:
            return [GemvTiling(16, warps=8), GemvTiling(8, 512), GemvTiling(4)]
        return [GemvTiling(8), GemvTiling(8, warps=8), GemvTiling(4, warps=2)]

    def set_choice(self, num_rows: int, choice: KernelChoice) -> None:
        """Chooses for one of TUNED_ROWS."""
        self._choices[num_rows] = choice

    @property
    def kind(self) -> str:
        """What the choice depends on, as a label."""
        marks = f"{' gated' * self._gated}{' split' * self._split}"
        outputs, inputs = self.weight.shape
        return f"{self.weight.dtype} {outputs}x{inputs}{marks}"

    def _fits_gemv(self) -> bool:
        return self._split or self.weight.shape[1] <= gemv.MAX_INPUTS

    def _choice(self, num_rows: int) -> KernelChoice:
        return next((choice for rows, choice in self._choices.items() if num_rows <= rows), None)

    def multiply(self, rows: Tensor, choice: KernelChoice) -> Tensor:
        """The product by the given kernel, whatever was chosen."""
        if isinstance(choice, GemvTiling):
            return gemv.gemv(rows, self.weight, self.bias, tiling=choice, **self._flags)
        if isinstance(choice, MatmulTiling):
            return matmul.matmul(rows, self.weight, self.bias, tiling=choice, **self._flags)
        product = functional.linear(rows, self.weight, self.bias)
        return silu_mul(product) if self._gated else product


def tune(linears: Sequence[GpuLinear], tuner: Tuner) -> None:
    """Chooses kernels for projections of one kind, measured on all: one would stay in the cache."""
    first = linears[0]
    for num_rows in TUNED_ROWS:
        rows = torch.randn(
            num_rows, first.weight.shape[1], dtype=first.weight.dtype, device=first.weight.device
        )
        make_run = partial(_make_run, linears, rows)
        choice = tuner.fastest(f"{first.kind} x {num_rows}", first.choices(num_rows), make_run)
        for linear in linears:
            linear.set_choice(num_rows, choice)


def _make_run(
    linears: Sequence[GpuLinear], rows: Tensor, choice: KernelChoice
) -> Callable[[], None]:
    def run() -> None:
        for linear in linears:
            linear.multiply(rows, choice)

    return run
