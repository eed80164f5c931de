"""The structures that the CPU kernels take, mirrored field by field from `*.h`.

The build asserts that both have the same layout: a library that disagrees does not compile.
"""

import ctypes
from collections.abc import Iterator
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from typing import Any

FORMATS = {"bf16": 0, "int8": 1, "int4": 2}
"""The number of each weight format."""


def _fields(kind: type[Any], names: str) -> Iterator[tuple[str, type[Any]]]:
    return ((name, kind) for name in names.split())


class LinearWeight(Structure):
    """linear.h"""

    _fields_ = (
        *_fields(c_void_p, "panels bias"),
        *_fields(c_int64, "outputs inputs"),
        *_fields(c_int32, "format gated"),
    )


class LinearCall(Structure):
    """linear.h"""

    _fields_ = (
        *_fields(c_void_p, "rows indexes norm_weight residual output"),
        *_fields(c_int64, "num_rows row_stride"),
        ("eps", c_float),
    )


class AttentionShape(Structure):
    """attention.h"""

    _fields_ = (*_fields(c_int64, "num_heads num_kv_heads head_dim block_size"),)


class AttentionStep(Structure):
    """attention.h"""

    _fields_ = (
        *_fields(c_void_p, "query_start_loc seq_lens block_tables slots positions cos sin tasks"),
        *_fields(c_int64, "num_seqs table_width num_tasks"),
    )


class AttentionCall(Structure):
    """attention.h"""

    _fields_ = (
        *_fields(c_void_p, "qkv keys values output q_norm k_norm"),
        ("eps", c_float),
    )


class Layer(Structure):
    """decoder.h"""

    _fields_ = (
        *_fields(POINTER(LinearWeight), "qkv_proj o_proj gate_up_proj down_proj"),
        *_fields(c_void_p, "input_norm q_norm k_norm post_attention_norm keys values"),
    )


class Decoder(Structure):
    """decoder.h"""

    _fields_ = (
        ("embedding", c_void_p),
        ("layers", POINTER(Layer)),
        *_fields(c_int64, "num_layers hidden_size"),
        ("shape", AttentionShape),
        ("eps", c_float),
    )


class Tokens(Structure):
    """decoder.h"""

    _fields_ = (
        *_fields(c_void_p, "token_ids output_rows"),
        ("num_output_rows", c_int64),
        ("hidden", c_void_p),
    )


class Elapsed(Structure):
    """decoder.h"""

    _fields_ = (*_fields(c_int64, "linears attention"),)


def layout_assertions() -> str:
    """C++ that compiles only if its sizes, offsets and formats are those stated here."""
    lines = ['#include "decoder.h"', "#include <cstddef>"]
    for name, number in FORMATS.items():
        lines.append(f'static_assert(k{name.capitalize()} == {number}, "format {name}");')
    for name, kind in globals().items():
        if isinstance(kind, type) and issubclass(kind, Structure) and kind is not Structure:
            lines.append(f'static_assert(sizeof({name}) == {ctypes.sizeof(kind)}, "{name}");')
            for field, *_ in kind._fields_:
                member = getattr(kind, field)
                layout = f"offsetof({name}, {field}) == {member.offset}"
                size = f"sizeof({name}::{field}) == {member.size}"
                lines.append(f'static_assert({layout} && {size}, "{name}.{field}");')
    return "\n".join([*lines, ""])
