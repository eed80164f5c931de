"""BuildThread: runs one build at a time, on a large stack, and waits for it within a limit."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from folovllm.errors import QueueFullError

# The library's compiler recurses with the text: 2,000 rules that name each other overflow the usual
# 8 MiB, which ends the process. The longest text that a request may have needs about 64 MiB. Only
# pages that are touched use memory.
_STACK_BYTES = 256 * 2**20

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
        _start_with_large_stack(lambda: self._fulfil(future, build))
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


def _start_with_large_stack(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, name="grammar-build", daemon=True)
    with _STACK_SIZE_LOCK:
        usual = threading.stack_size(_STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(usual)
