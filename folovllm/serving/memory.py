"""The memory of a process that loads much, once, and then keeps it.

What freed memory becomes is up to the C library. Only the GNU one is told anything here; others
have no such settings, or give memory back by themselves.
"""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Numbers of mallopt's parameters.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MIB = 2**20
# The highest that the library takes, and comes to by itself as large blocks are freed.
_MOST_IN_HEAP = 32 * _MIB


@contextmanager
def collector_paused() -> Iterator[None]:
    """For the imports of a start: searches nothing for garbage meanwhile.

    Modules are hundreds of thousands of objects and hardly any garbage. Searching them again and
    again takes a sixth of the time that importing torch does.
    """
    gc.disable()
    try:
        yield
    finally:
        # Else the next search would be of all that came meanwhile.
        gc.freeze()
        gc.enable()


@contextmanager
def large_blocks_apart() -> Iterator[None]:
    """For the loading of weights: what is large is no part of any heap meanwhile.

    So what was needed only to load leaves no holes among the weights. Later, blocks that come and
    go with each step are faster taken from a heap.
    """
    _set(_MMAP_THRESHOLD, _MIB)
    try:
        yield
    finally:
        _set(_MMAP_THRESHOLD, _MOST_IN_HEAP)
        _set(_TRIM_THRESHOLD, 2 * _MOST_IN_HEAP)


def settle_memory() -> None:
    """For the end of a start: what is there stays, and what was freed goes back to the system.

    To search all that for garbage later would hold up every stream, by up to a tenth of a second
    each time.
    """
    gc.freeze()
    library = _gnu_library()
    if library is not None:
        library.malloc_trim(0)


def _set(parameter: int, value: int) -> None:
    library = _gnu_library()
    if library is not None:
        library.mallopt(parameter, value)


def _gnu_library() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
