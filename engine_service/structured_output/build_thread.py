"""Threads for native code that recurses deeply: one that a caller waits for, and a lane."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from engine_service.structured_output.library import STACK_BYTES
from folovllm.errors import QueueFullError
from folovllm.serving.memory.settling import return_free_memory

# The stack size is a setting of the whole process; this keeps two builds from interfering.
_STACK_SIZE_LOCK = threading.Lock()

Built = TypeVar("Built")


class BuildThread:
    """Runs native code that nothing can interrupt, one build at a time.

    A build that takes longer than `time_limit` seconds is abandoned but runs to its end, and blocks
    others for that long: whatever callers do, no more than one processor is ever lost.
    """

    def __init__(self, time_limit: float) -> None:
        self.time_limit = time_limit
        self._running = threading.Lock()

    def run(self, build: Callable[[], Built]) -> Built:
        """What `build` returns or raises.

        Raises TimeoutError if it takes too long, QueueFullError if another build does.
        """
        if not self._running.acquire(timeout=self.time_limit):
            raise QueueFullError("the grammar compiler is busy", retry_after=self.time_limit)
        future: Future[Built] = Future()
        thread = threading.Thread(
            target=lambda: self._fulfil(future, build), name="grammar-build", daemon=True
        )
        with_large_stack(thread.start)
        return future.result(self.time_limit)

    def _fulfil(self, future: Future[Built], build: Callable[[], Built]) -> None:
        try:
            result = build()
        except BaseException as error:
            self._running.release()
            future.set_exception(error)
        else:
            self._running.release()
            future.set_result(result)


class BuildLane:
    """Runs builds of known cost one after another, on a thread that lives while there are any.

    So the pages of a deep stack are given back, and what the allocator has kept of the builds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = False

    def submit(self, build: Callable[[], Built]) -> Future[Built]:
        """What `build` returns or raises; one that is cancelled in time is not run."""
        future: Future[Built] = Future()
        with self._lock:
            self._waiting.append(lambda: _fulfil(future, build))
            if not self._running:
                self._running = True
                thread = threading.Thread(target=self._run, name="grammar-build", daemon=True)
                with_large_stack(thread.start)
        return future

    def close(self) -> None:
        """Drops what has not begun."""
        with self._lock:
            self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running = False
                    break
                work = self._waiting.popleft()
            work()
        return_free_memory()


def _fulfil(future: Future[Built], build: Callable[[], Built]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = build()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def with_large_stack(start: Callable[[], Built]) -> Built:
    """What `start` returns; threads that it starts have STACK_BYTES."""
    with _STACK_SIZE_LOCK:
        usual = threading.stack_size(STACK_BYTES)
        try:
            return start()
        finally:
            threading.stack_size(usual)
