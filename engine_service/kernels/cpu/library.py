"""The compiled CPU kernels, as functions of addresses and of the structures of `structures`.

The library keeps no reference to any tensor: the caller keeps alive what it passes the address of.
"""

import ctypes
import functools
import logging
import weakref
from collections.abc import Callable
from ctypes import POINTER, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

from engine_service.kernels.cpu.build import KernelBuildError, build_library, find_library
from engine_service.kernels.cpu.processor import missing_instructions
from engine_service.kernels.cpu.structures import (
    AttentionCall,
    AttentionShape,
    AttentionStep,
    Decoder,
    LinearCall,
    LinearWeight,
    Tokens,
)

log = logging.getLogger(__name__)

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
    "decode": (None, (c_void_p, POINTER(Decoder), POINTER(AttentionStep), POINTER(Tokens))),
}


class Context:
    """The library's threads and scratch memory; for one calling thread at a time.

    Its methods are the library's functions; they release the GIL. The threads end when the context
    is garbage-collected.
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
    """Whether it has AVX-512 with bfloat16 and 8-bit dot products."""
    return not missing_instructions()


@functools.cache
def find_or_build() -> Path | None:
    """The library, compiled now unless it has been; None if it cannot be used.

    Then the processor lacks the instructions, or (which is logged) compiling failed or the library
    cannot be loaded.
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
