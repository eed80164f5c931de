"""Ranks as threads of one process, which exchange over gloo as ranks that are processes do."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from engine_service.layers.parallel import TensorParallel

TIMEOUT = timedelta(seconds=20)
_Result = TypeVar("_Result")


def make_group(store: dist.Store, name: str, rank: int, size: int) -> dist.ProcessGroup:
    group: dist.ProcessGroup = dist.ProcessGroupGloo(  # type: ignore[assignment]
        dist.PrefixStore(name, store), rank, size, TIMEOUT
    )
    return group


def on_ranks(size: int, work: Callable[[TensorParallel], _Result]) -> list[_Result]:
    """What each of `size` ranks gets from `work`."""
    store = dist.HashStore()

    def run(rank: int) -> _Result:
        return work(TensorParallel(rank, size, make_group(store, "model", rank, size)))

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(run, range(size)))
