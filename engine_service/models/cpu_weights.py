"""The projections of a decoder as the CPU kernels take them: which there are, and their memory.

All packed weights lie in one piece of memory of large pages, so that reading them in order, which
is what a decode step does, seldom waits for an address.
"""

import ctypes
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine_service.kernels.cpu.library import Context
from engine_service.kernels.cpu.structures import FORMATS, LinearWeight
from engine_service.layers.linear.packing import head_quantization
from engine_service.models.decoder_config import DecoderConfig

_PANEL = 32  # of outputs; that of panels.h
_GATES = 16  # of a panel, beside as many of their factors
_ALIGNMENT = 64
_LARGE_PAGE = 2**21

ReadTensor = Callable[[str], Tensor]
"""A tensor of the checkpoint by its name."""


@dataclass(frozen=True, slots=True)
class Projection:
    """One packed weight, and the checkpoint's tensors that it is made of."""

    name: str
    prefix: str
    parts: tuple[str, ...]
    """Names behind the prefix; their outputs follow each other."""
    outputs: int
    inputs: int
    weight_format: str
    """One of FORMATS."""
    bias: bool = False
    gated: bool = False
    """Whether the two parts are gates and their factors, of which silu(gate) * factor is left."""

    def read_bias(self, read: ReadTensor) -> Tensor | None:
        """In the order of the packed outputs, filled up with zeros to a whole panel."""
        if not self.bias:
            return None
        parts = [read(f"{self.prefix}{part}.bias").to(torch.bfloat16) for part in self.parts]
        if self.gated:
            padded = [functional.pad(part, (0, -len(part) % _GATES)) for part in parts]
            return torch.stack([part.view(-1, _GATES) for part in padded], dim=1).flatten()
        bias = torch.cat(parts)
        return functional.pad(bias, (0, -len(bias) % _PANEL)).contiguous()


def projections(config: DecoderConfig, quantization: str) -> Iterator[Projection]:
    """All of a decoder's, in the order in which a step reads them."""
    layer_format, head_format = (
        "bf16" if name == "none" else name
        for name in (quantization, head_quantization(quantization))
    )
    query_size = config.num_attention_heads * config.head_dim
    kv_size = config.num_key_value_heads * config.head_dim
    hidden, size = config.hidden_size, config.intermediate_size
    for index in range(config.num_hidden_layers):
        prefix = f"model.layers.{index}."
        for name, within, parts, outputs, inputs, bias in (
            ("qkv_proj", "self_attn.", ("q_proj", "k_proj", "v_proj"), query_size + 2 * kv_size,
             hidden, config.qkv_bias),
            ("o_proj", "self_attn.", ("o_proj",), hidden, query_size, config.o_bias),
            ("gate_up_proj", "mlp.", ("gate_proj", "up_proj"), 2 * size, hidden, config.mlp_bias),
            ("down_proj", "mlp.", ("down_proj",), hidden, size, config.mlp_bias),
        ):  # fmt: skip
            yield Projection(
                f"{prefix}{within}{name}",
                f"{prefix}{within}",
                parts,
                outputs,
                inputs,
                layer_format,
                bias,
                gated=name == "gate_up_proj",
            )
    head = ("model.", "embed_tokens") if config.tie_word_embeddings else ("", "lm_head")
    yield Projection("lm_head", head[0], (head[1],), config.vocab_size, hidden, head_format)


class CpuWeights:
    """Packed weights by their names; made once, then only read."""

    def __init__(self, context: Context, wanted: Sequence[Projection]) -> None:
        """Takes the memory; `pack` or `fill` gives it its content."""
        self._context = context
        self._projections = {each.name: each for each in wanted}
        sizes = {each.name: _packed_bytes(context, each) for each in wanted}
        ends = _offsets(sizes)
        memory = _large_pages(ends[-1] if ends else 0)
        self.packed: Mapping[str, Tensor] = {
            name: memory[end - size : end]
            for (name, size), end in zip(sizes.items(), ends, strict=True)
        }
        self._biases: dict[str, Tensor | None] = {}
        self._structures: dict[str, LinearWeight] = {}

    def pack(self, name: str, read: ReadTensor) -> None:
        """Packs a projection from the checkpoint's tensors, quantizing where it has to."""
        structure = self._complete(name, read)
        each = self._projections[name]
        start = 0
        for place, part in enumerate(each.parts):
            rows = read(f"{each.prefix}{part}.weight").to(torch.bfloat16).contiguous()
            first, stride = (place * _GATES, _PANEL) if each.gated else (start, _GATES)
            self._context.pack_weight(structure, rows.data_ptr(), len(rows), first, stride)
            start += len(rows)

    def fill(self, name: str, packed: Tensor, read: ReadTensor) -> None:
        """Takes a projection that was packed before; its bias comes from the checkpoint."""
        self._complete(name, read)
        self.packed[name].copy_(packed)

    def __getitem__(self, name: str) -> LinearWeight:
        """A projection that was packed or filled."""
        return self._structures[name]

    def _complete(self, name: str, read: ReadTensor) -> LinearWeight:
        each = self._projections[name]
        bias = self._biases[name] = each.read_bias(read)
        self._structures[name] = structure = LinearWeight(
            self.packed[name].data_ptr(),
            None if bias is None else bias.data_ptr(),
            each.outputs,
            each.inputs,
            FORMATS[each.weight_format],
            each.gated,
        )
        return structure


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's values begin."""
    return None if tensor is None else tensor.data_ptr()


def _packed_bytes(context: Context, each: Projection) -> int:
    return context.packed_bytes(FORMATS[each.weight_format], each.outputs, each.inputs)


def _offsets(sizes: Mapping[str, int]) -> list[int]:
    """Where each piece ends, when each begins at a multiple of _ALIGNMENT."""
    ends, position = [], 0
    for size in sizes.values():
        ends.append(position + size)
        position += -(-size // _ALIGNMENT) * _ALIGNMENT
    return ends


def _large_pages(num_bytes: int) -> Tensor:
    """Zeroed memory, uint8, that the system is asked to map with large pages."""
    memory = mmap.mmap(-1, num_bytes + _LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % _LARGE_PAGE
    return torch.frombuffer(memory, dtype=torch.uint8)[start : start + num_bytes]
