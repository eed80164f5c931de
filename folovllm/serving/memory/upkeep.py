"""Upkeep: gives memory back to the system while a service runs.

Large messages leave free memory in the C library's heaps, four times what the process needs, and
the library keeps it for the next ones. So it is returned as soon as the process rests, and while it
does not, whenever a lot has come together.
"""

import asyncio
import gc
import os
import sys
import time
from pathlib import Path

from folovllm.serving.memory.settling import return_free_memory

# Seconds between two looks.
_INTERVAL = 1.0
# Of the time since the last look, the processor time of a process that rests.
_RESTS_BELOW = 0.2
# Growth since the last return that is worth one: when the process rests, and when it works.
_WORTH_AT_REST = 0.02
_WORTH_AT_WORK = 64 * 1024 * 1024
_STATUS = Path("/proc/self/statm")


class Upkeep:
    """Decides, look by look, whether memory is to be returned.

    `resident` is in bytes, `seconds` are those since the last look, `processor_seconds` what the
    process has used of them.
    """

    def __init__(self, resident: int) -> None:
        self._resident = resident
        self._worked = False
        self.rests = False
        """Whether the process rested when it was last looked at."""

    def is_due(self, resident: int, seconds: float, processor_seconds: float) -> bool:
        """Whether to return memory now. It is returned once after work, if that took any."""
        grown = resident - self._resident
        self.rests = processor_seconds <= seconds * _RESTS_BELOW
        if not self.rests:
            self._worked = True
            return grown > _WORTH_AT_WORK
        # What was returned at work was still in use: whatever it has left is free only now.
        worked, self._worked = self._worked, False
        return worked or grown > self._resident * _WORTH_AT_REST

    def returned(self, resident: int) -> None:
        """Takes notice of what is resident after a return."""
        self._resident = resident


async def keep_memory_low() -> None:
    """Returns memory for ever; on Linux, which tells how much there is."""
    if sys.platform != "linux":
        return
    upkeep = Upkeep(_resident())
    looked_at, used = time.monotonic(), time.process_time()
    while True:
        await asyncio.sleep(_INTERVAL)
        now, use = time.monotonic(), time.process_time()
        if upkeep.is_due(_resident(), now - looked_at, use - used):
            if upkeep.rests:
                gc.collect()  # an error and its traceback may hold a message in a circle
            await asyncio.to_thread(return_free_memory)
            upkeep.returned(_resident())
        looked_at, used = now, use


def _resident() -> int:
    """The process's resident memory in bytes."""
    return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
