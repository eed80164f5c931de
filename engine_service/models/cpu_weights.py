"""The projections of a plan as the CPU kernels take them, packed in memory.

All packed weights lie in one block of large pages. A decode step reads them in order and so seldom
waits for an address.
"""

import ctypes
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from engine_service.kernels.cpu.library import Context
from engine_service.kernels.cpu.structures import FORMATS, LinearWeight
from engine_service.layers.linear.packing import head_quantization
from engine_service.models.layer_plan import DecoderPlan, Mlp, Projection

_PANEL = 32  # outputs; as in panels.h
_GATES = 16  # of a panel, beside as many of their factors
_ALIGNMENT = 64
_LARGE_PAGE = 2**21

ReadTensor = Callable[[str], Tensor]
"""A tensor of the checkpoint by its name."""


@dataclass(frozen=True, slots=True)
class PackedProjection:
    """How a projection is packed."""

    prefix: str
    """Of its name and its parts' names."""
    projection: Projection
    weight_format: str
    """One of FORMATS."""
    gated: bool = False
    """Whether the two parts are gates and their factors; silu(gate) * factor is computed."""

    @property
    def name(self) -> str:
        """Unique in a decoder."""
        return f"{self.prefix}{self.projection.name}"

    def read_parts(self, read: ReadTensor, kind: str) -> Iterator[Tensor]:
        """Each part's `weight` or `bias`."""
        for name, _ in self.projection.parts:
            yield read(f"{self.prefix}{name}.{kind}").to(torch.bfloat16)

    def read_bias(self, read: ReadTensor) -> Tensor | None:
        """In the order of the packed outputs, padded with zeros to a whole panel."""
        if not self.projection.bias:
            return None
        parts = list(self.read_parts(read, "bias"))
        if self.gated:
            padded = [functional.pad(part, (0, -len(part) % _GATES)) for part in parts]
            return torch.stack([part.view(-1, _GATES) for part in padded], dim=1).flatten()
        bias = torch.cat(parts)
        return functional.pad(bias, (0, -len(bias) % _PANEL)).contiguous()


def projections(plan: DecoderPlan, quantization: str) -> Iterator[PackedProjection]:
    """All of a decoder's, in the order in which a step reads them."""
    layer_format, head_format = (
        "bf16" if name == "none" else name
        for name in (quantization, head_quantization(quantization))
    )
    for prefix, op in plan.numbered():
        for _, child in op.children():
            if isinstance(child, Projection):
                gated = isinstance(op, Mlp) and child is op.gate_up
                yield PackedProjection(f"{prefix}{op.name}.", child, layer_format, gated)
    yield PackedProjection("", plan.head or plan.embedding, head_format)


class CpuWeights:
    """Packed weights by their names; made once, then only read."""

    def __init__(self, context: Context, projections: Sequence[PackedProjection]) -> None:
        """Allocates the memory; `pack` gives it its content."""
        self._context = context
        sizes = [
            context.packed_bytes(
                FORMATS[packed.weight_format], packed.projection.outputs, packed.projection.inputs
            )
            for packed in projections
        ]
        offsets = [0, *accumulate(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]
        memory = _large_pages(offsets[-1])
        self.packed = {
            packed.name: memory[offset : offset + size]
            for packed, offset, size in zip(projections, offsets, sizes, strict=False)
        }
        self._biases: dict[str, Tensor | None] = {}
        self._structures: dict[str, LinearWeight] = {}

    def pack(self, packed: PackedProjection, read: ReadTensor) -> None:
        """Packs a projection from the checkpoint's tensors, quantizing if its format says so."""
        bias = self._biases[packed.name] = packed.read_bias(read)
        structure = self._structures[packed.name] = LinearWeight(
            self.packed[packed.name].data_ptr(),
            address(bias),
            packed.projection.outputs,
            packed.projection.inputs,
            FORMATS[packed.weight_format],
            packed.gated,
        )
        start = 0
        for index, part in enumerate(packed.read_parts(read, "weight")):
            rows = part.contiguous()
            first, stride = (index * _GATES, _PANEL) if packed.gated else (start, _GATES)
            self._context.pack_weight(structure, rows.data_ptr(), len(rows), first, stride)
            start += len(rows)

    def __getitem__(self, name: str) -> LinearWeight:
        """A projection that was packed."""
        return self._structures[name]


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's values begin."""
    return None if tensor is None else tensor.data_ptr()


def _large_pages(num_bytes: int) -> Tensor:
    """Zeroed memory, uint8, that the system is asked to map with large pages."""
    memory = mmap.mmap(-1, num_bytes + _LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % _LARGE_PAGE
    return torch.frombuffer(memory, dtype=torch.uint8)[start : start + num_bytes]
