"""Memory: what each process of a run takes, from its warm-up to its end."""

import statistics
from collections.abc import Mapping

from chaos.processes.service import Service

_MIB = 2**20
_WARM_UP = 0.25
"""The share of a run in which caches fill and allocators find their size."""


class MemoryWatch:
    """Samples of resident memory."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        """By what they are called."""
        self._services = services
        self._samples: dict[str, list[tuple[float, int]]] = {name: [] for name in services}

    def sample(self, progress: float) -> None:
        """Takes one of each, at this share of the run."""
        for name, service in self._services.items():
            self._samples[name].append((progress, service.memory()))

    def growth(self) -> dict[str, float]:
        """MiB by which each has grown since its warm-up: medians of the first and last samples.

        Empty as long as there are too few samples for that.
        """
        found = {}
        for name, samples in self._samples.items():
            warm = [memory for progress, memory in samples if progress >= _WARM_UP]
            size = len(warm) // 5
            if size:
                first, last = statistics.median(warm[:size]), statistics.median(warm[-size:])
                found[name] = (last - first) / _MIB
        return found
