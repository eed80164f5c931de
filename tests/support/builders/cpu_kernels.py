"""The compiled CPU kernels for tests, which skip where there are none."""

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine_service.kernels.cpu.build import COMPILERS, build_library
from engine_service.kernels.cpu.library import Context, find_or_build, processor_has_kernels
from engine_service.kernels.cpu.structures import FORMATS, LinearCall
from engine_service.models.cpu_weights import CpuWeights, PackedProjection, address
from engine_service.models.layer_plan import Cut, Projection

# Tensors as small as these gain nothing from torch's threads.
torch.set_num_threads(1)

BFLOAT16 = torch.bfloat16
EPS = 1e-6
_GUARD = 64
_UNTOUCHED = -12345.0


def library() -> Path:
    """The compiled library. The test that asks is skipped where there can be none.

    With the processor and a compiler it is no excuse that the sources do not compile.
    """
    if path := find_or_build():
        return path
    if processor_has_kernels() and any(map(shutil.which, COMPILERS)):
        build_library()
    pytest.skip("the CPU kernels need AVX-512 with bfloat16 and a C++ compiler")


@cache
def context(num_threads: int = 1) -> Context:
    """A context for the calls of the tests' own thread; skips like `library`."""
    return Context(library(), num_threads)


def _part(number: int) -> str:
    return f"part{number}"


class PackedLinear:
    """Weights [outputs, inputs] in bfloat16, packed one after the other as a decoder packs them."""

    def __init__(
        self,
        *weights: Tensor,
        weight_format: str,
        biases: tuple[Tensor, ...] = (),
        gated: bool = False,
        num_threads: int = 1,
    ) -> None:
        """Two weights make a gated product: the gates', then their factors'."""
        self.inputs = weights[0].shape[1]
        outputs = sum(len(weight) for weight in weights)
        self.outputs = outputs // 2 if gated else outputs
        tensors = {
            f"{_part(number)}.{kind}": tensor
            for kind, group in (("weight", weights), ("bias", biases))
            for number, tensor in enumerate(group)
        }
        sizes = tuple((_part(number), len(weight)) for number, weight in enumerate(weights))
        projection = Projection("tested", sizes, self.inputs, Cut.OUTPUTS, bool(biases))
        packed = PackedProjection("", projection, weight_format, gated)
        self.packed = CpuWeights(context(num_threads), [packed])
        self.packed.pack(packed, tensors.__getitem__)
        assert FORMATS[weight_format] == self.packed["tested"].format

    def __call__(
        self,
        rows: Tensor,
        *,
        norm: Tensor | None = None,
        residual: Tensor | None = None,
        in_place: bool = False,
        indexes: Tensor | None = None,
        on: Context | None = None,
    ) -> Tensor:
        """Rows [count, inputs], any stride apart -> [count, outputs].

        With `in_place` the residual lies where the output goes; `indexes` picks rows."""
        count = len(rows if indexes is None else indexes)
        size = count * self.outputs
        memory = torch.full((size + _GUARD,), _UNTOUCHED, dtype=BFLOAT16)
        output = memory[:size].view(-1, self.outputs)
        if in_place:
            assert residual is not None
            residual = output.copy_(residual)
        call = LinearCall(
            rows.data_ptr(),
            address(indexes),
            address(norm),
            address(residual),
            output.data_ptr(),
            count,
            rows.stride(0),
            EPS,
        )
        (on or context()).linear(self.packed["tested"], call)
        assert bool((memory[size:] == _UNTOUCHED).all()), "wrote past the output"
        return output
