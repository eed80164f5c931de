"""The structures that the CPU kernels take, mirrored field by field from `*.h`.

The build asserts that both have the same layout: a library that disagrees does not compile.
"""

import ctypes
from collections.abc import Iterator
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

FORMATS = {"bf16": 0, "int8": 1, "int4": 2}
"""The number of each weight format."""


class LinearWeight(Structure):
    """linear.h"""

    _fields_ = (
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("format", c_int32),
        ("gated", c_int32),
    )


class LinearCall(Structure):
    """linear.h"""

    _fields_ = (
        ("rows", c_void_p),
        ("indexes", c_void_p),
        ("norm_weight", c_void_p),
        ("residual", c_void_p),
        ("output", c_void_p),
        ("num_rows", c_int64),
        ("row_stride", c_int64),
        ("eps", c_float),
    )


class AttentionShape(Structure):
    """attention.h"""

    _fields_ = (
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("block_size", c_int64),
    )


class AttentionStep(Structure):
    """attention.h"""

    _fields_ = (
        ("query_start_loc", c_void_p),
        ("seq_lens", c_void_p),
        ("block_tables", c_void_p),
        ("slots", c_void_p),
        ("positions", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("tasks", c_void_p),
        ("num_seqs", c_int64),
        ("table_width", c_int64),
        ("num_tasks", c_int64),
    )


class AttentionCall(Structure):
    """attention.h"""

    _fields_ = (
        ("qkv", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("output", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("eps", c_float),
    )


class Layer(Structure):
    """decoder.h"""

    _fields_ = (
        ("qkv_proj", POINTER(LinearWeight)),
        ("o_proj", POINTER(LinearWeight)),
        ("gate_up_proj", POINTER(LinearWeight)),
        ("down_proj", POINTER(LinearWeight)),
        ("input_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("post_attention_norm", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
    )


class Decoder(Structure):
    """decoder.h"""

    _fields_ = (
        ("embedding", c_void_p),
        ("layers", POINTER(Layer)),
        ("num_layers", c_int64),
        ("hidden_size", c_int64),
        ("shape", AttentionShape),
        ("eps", c_float),
    )


class Tokens(Structure):
    """decoder.h"""

    _fields_ = (
        ("token_ids", c_void_p),
        ("output_rows", c_void_p),
        ("num_output_rows", c_int64),
        ("hidden", c_void_p),
    )


class Elapsed(Structure):
    """decoder.h"""

    _fields_ = (("linears", c_int64), ("attention", c_int64))


STRUCTURES: tuple[type[Structure], ...] = (
    LinearWeight,
    LinearCall,
    AttentionShape,
    AttentionStep,
    AttentionCall,
    Layer,
    Decoder,
    Tokens,
    Elapsed,
)


def layout_assertions() -> str:
    """C++ that compiles only if its sizes, offsets and formats are those stated here."""
    return "\n".join(['#include "decoder.h"', "#include <cstddef>", *_assertions(), ""])


def _assertions() -> Iterator[str]:
    for name, number in FORMATS.items():
        yield f'static_assert(k{name.capitalize()} == {number}, "format {name}");'
    for structure in STRUCTURES:
        name = structure.__name__
        yield f'static_assert(sizeof({name}) == {ctypes.sizeof(structure)}, "{name}");'
        for field in (entry[0] for entry in structure._fields_):
            member = getattr(structure, field)
            yield (
                f"static_assert(offsetof({name}, {field}) == {member.offset} && "
                f'sizeof({name}::{field}) == {member.size}, "{name}.{field}");'
            )
