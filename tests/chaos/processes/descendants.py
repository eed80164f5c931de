"""No process outlives the harness: neither one that is stopped, nor one whose parent has gone."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_END_SECONDS = 10.0


@contextmanager
def no_process_left() -> Iterator[None]:
    """Kills at its end all that this process, or what it started, has started and left behind.

    SIGTERM ends the block as Ctrl-C does.
    """
    # Whoever loses its parent becomes a child of this process.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    before = children_of(os.getpid())
    previous = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        kill_all([each for each in children_of(os.getpid()) if each not in before])


def children_of(pid: int) -> list[psutil.Process]:
    """The processes that one has started, and those that they have."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_all(processes: list[psutil.Process]) -> None:
    """Kills them, also where they are stopped, and waits until they have gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()  # a stopped process dies of it too
    psutil.wait_procs(processes, timeout=_END_SECONDS)
