"""Ranks as threads of one process, which exchange over gloo as ranks that are processes do."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed import ProcessGroup, ProcessGroupGloo

from engine_service.layers.parallel import TensorParallel

TIMEOUT = timedelta(seconds=90)  # a rank that is a process imports torch first
_Result = TypeVar("_Result")


def make_group(store: Store, name: str, rank: int, size: int) -> ProcessGroup:
    group: ProcessGroup = ProcessGroupGloo(  # type: ignore[assignment]
        PrefixStore(name, store), rank, size, TIMEOUT
    )
    return group


def on_ranks(size: int, work: Callable[[TensorParallel], _Result]) -> list[_Result]:
    """What each of `size` ranks gets from `work`."""
    store = HashStore()

    def run(rank: int) -> _Result:
        return work(TensorParallel(rank, size, make_group(store, "model", rank, size)))

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(run, range(size)))
