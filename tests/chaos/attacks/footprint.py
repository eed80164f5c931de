"""Footprint: memory and logs of a site's services, with all processes that they have started."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

import psutil

from chaos.processes.descendants import children_of
from chaos.processes.site import Site

_MIB = 2**20
_MAX_SHARE = 1.10
_SECONDS_BETWEEN = 0.25
_SETTLED_SECONDS = 3.0
"""Services look once a second whether they rest, and then give memory back."""


class Footprint:
    """What the processes of a site take."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def memory(self) -> dict[str, int]:
        """Bytes of resident memory, by service, those of its child processes included."""
        return {name: sum(_sizes(service.pid)) for name, service in self._site.services.items()}

    async def settled(self, within: float) -> dict[str, int]:
        """The memory once none of it has become less for a while, or after so many seconds."""
        lowest, now = self.memory(), time.monotonic()
        deadline, fallen_at = now + within, now
        while now < min(deadline, fallen_at + _SETTLED_SECONDS):
            await asyncio.sleep(_SECONDS_BETWEEN)
            memory, now = self.memory(), time.monotonic()
            if any(size < lowest[name] for name, size in memory.items()):
                lowest, fallen_at = memory, now
        return self.memory()

    def _by_process(self, name: str) -> str:
        sizes = _sizes(self._site.services[name].pid)
        return " + ".join(f"{size / _MIB:.0f}" for size in sizes)

    def logged(self) -> int:
        """Bytes that all of them have logged."""
        return sum(service.log_size for service in self._site.services.values())

    async def grown(self, before: Mapping[str, int], within: float) -> list[str]:
        """Whose memory is not back within a tenth of what it was, after so many seconds."""
        deadline = time.monotonic() + within
        while True:
            found = [
                f"{name} takes {size / _MIB:.0f} MiB, and took {before[name] / _MIB:.0f} MiB "
                f"before; by process now {self._by_process(name)}"
                for name, size in self.memory().items()
                if size > before[name] * _MAX_SHARE
            ]
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(_SECONDS_BETWEEN)


def _sizes(pid: int) -> list[int]:
    """Bytes of resident memory of a process, and of those that it has started."""
    sizes = []
    with suppress(psutil.NoSuchProcess):
        for process in (psutil.Process(pid), *children_of(pid)):
            with suppress(psutil.NoSuchProcess):
                sizes.append(process.memory_info().rss)
    return sizes
