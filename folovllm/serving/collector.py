"""Python's garbage collector, while much is loaded that stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """For the imports of a start: searches nothing meanwhile, nor ever what they have loaded.

    Modules make hundreds of thousands of objects and hardly any garbage. To search them again and
    again takes a sixth of the time that importing torch does, and later would hold up every stream
    by a tenth of a second each time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
