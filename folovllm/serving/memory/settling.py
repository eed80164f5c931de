"""The memory of a process that loads a lot once and then keeps it."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# As malloc.h names and numbers it; setting it also ends its growth.
_M_MMAP_THRESHOLD = -3
_LARGE_BLOCK = 128 * 1024
# Searches of the second youngest objects before all are searched.
_SEARCHES_BEFORE_ALL = 100


@contextmanager
def collector_paused() -> Iterator[None]:
    """For the imports of a start: pauses the garbage collector.

    Modules are hundreds of thousands of objects and hardly any garbage. Searching them repeatedly
    takes a sixth of the time of importing torch.
    """
    gc.disable()
    try:
        yield
    finally:
        # Otherwise the next search would cover everything that was imported.
        gc.freeze()
        gc.enable()


def settle_memory() -> None:
    """For the end of a start: exempts what was loaded from collection and returns free memory.

    Searching all of it for garbage later would block every stream, each time for up to 0.1 s. So
    would searching what thousands of open calls hold, which by default happens several times while
    they arrive; what they leave is found when the process rests (see `upkeep`).
    """
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _SEARCHES_BEFORE_ALL)
    return_free_memory()


def return_free_memory() -> None:
    """Gives memory that is free back to the system. Takes milliseconds; releases the lock."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # the GNU library's alone
        library.malloc_trim(0)


def keep_large_blocks_apart() -> None:
    """For the start of a process that gets large messages: each of them goes back by itself.

    By default the GNU library soon puts blocks of up to 32 MiB among the small ones, where they
    leave holes that only shrink at the end.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
