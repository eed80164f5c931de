"""CpuLibrary: the compiled CPU kernels, as functions of addresses and structures of them.

The structures are those of `cpu/*.h`, field by field. The library keeps no reference to any tensor:
who passes an address keeps its tensor.
"""

import ctypes
import functools
import logging
import weakref
from collections.abc import Callable
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch

from engine_service.kernels.cpu.build import KernelBuildError, build_library, find_library

log = logging.getLogger(__name__)

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
    """decoder.cpp"""

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
    """decoder.cpp"""

    _fields_ = (
        ("embedding", c_void_p),
        ("layers", POINTER(Layer)),
        ("num_layers", c_int64),
        ("hidden_size", c_int64),
        ("shape", AttentionShape),
        ("eps", c_float),
    )


class Tokens(Structure):
    """decoder.cpp"""

    _fields_ = (
        ("token_ids", c_void_p),
        ("wanted", c_void_p),
        ("num_wanted", c_int64),
        ("hidden", c_void_p),
    )


class Elapsed(Structure):
    """decoder.cpp"""

    _fields_ = (("linears", c_int64), ("attention", c_int64))


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "context_create": (c_void_p, (c_int32,)),
    "context_destroy": (None, (c_void_p,)),
    "packed_bytes": (c_int64, (c_int32, c_int64, c_int64)),
    "pack_weight": (
        None,
        (c_void_p, POINTER(LinearWeight), c_void_p, c_int64, c_int64, c_int64),
    ),
    "linear": (None, (c_void_p, POINTER(LinearWeight), POINTER(LinearCall))),
    "attention": (
        None,
        (c_void_p, POINTER(AttentionShape), POINTER(AttentionStep), POINTER(AttentionCall)),
    ),
    "argmax": (None, (c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p)),
    "decode": (Elapsed, (c_void_p, POINTER(Decoder), POINTER(AttentionStep), POINTER(Tokens))),
}


class Context:
    """The library's threads, and its memory between calls; for one calling thread at a time.

    Its methods are the library's functions, which let other Python threads run. A context that
    nobody holds any more ends its threads.
    """

    def __init__(self, library: Path, num_threads: int) -> None:
        functions = ctypes.CDLL(str(library))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
        self.num_threads = num_threads
        address = functions.context_create(num_threads)
        self.pack_weight = functools.partial(functions.pack_weight, address)
        self.linear = functools.partial(functions.linear, address)
        self.attention = functools.partial(functions.attention, address)
        self.argmax = functools.partial(functions.argmax, address)
        self.decode = functools.partial(functions.decode, address)
        self.packed_bytes: Callable[[int, int, int], int] = functions.packed_bytes
        # Not at the interpreter's exit: a daemon thread may still be computing.
        weakref.finalize(self, functions.context_destroy, address).atexit = False


def processor_has_kernels() -> bool:
    """Whether it has AVX-512 with bfloat16 and 8-bit products."""
    return torch.cpu._is_avx512_bf16_supported() and torch.cpu._is_vnni_supported()


@functools.cache
def find_or_build() -> Path | None:
    """The library, compiled now where it has not been; None where it cannot be had.

    Then the processor lacks what they need, or, which is logged, there is no compiler, or nothing
    in the folder may be executed.
    """
    if not processor_has_kernels():
        return None
    try:
        library = find_library()
        if library is None:
            log.info("compiling the CPU kernels, once")
            library = build_library()
        ctypes.CDLL(str(library))
    except (KernelBuildError, OSError) as error:
        log.warning("plain torch computes, since the CPU kernels cannot be used: %s", error)
        return None
    return library
