"""The memory of a process that loads much, once, and then keeps it."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager


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


def settle_memory() -> None:
    """For the end of a start: what is there stays, and what was freed goes back to the system.

    To search all that for garbage later would hold up every stream, by up to a tenth of a second
    each time.
    """
    gc.freeze()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # the GNU library's alone
        library.malloc_trim(0)
