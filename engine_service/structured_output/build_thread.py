"""BuildThread: runs one build at a time, on a deep stack, and waits for it only so long."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from folovllm.errors import QueueFullError

# The library's compiler recurses with the text: 2,000 rules that name each other overflow the usual
# 8 MiB, which ends the process. The longest text that a request may bring needs about 64 MiB. Only
# the pages that are touched become memory.
_STACK_BYTES = 256 * 2**20

# The stack's size is a setting of the whole process; this keeps two builds from mixing it up.
_STACK_SIZE_LOCK = threading.Lock()

Built = TypeVar("Built")


class BuildThread:
    """One lane for work in native code that nothing can interrupt.

    What takes longer than `time_limit` seconds is given up on but runs to its end, and keeps the
    lane for that long: callers come and go, but never more than one processor is lost.
    """

    def __init__(self, time_limit: float) -> None:
        self.time_limit = time_limit
        self._lane = threading.Lock()

    def run(self, build: Callable[[], Built]) -> Built:
        """What `build` returns or raises.

        Raises TimeoutError where it takes too long, QueueFullError where the lane stays taken.
        """
        if not self._lane.acquire(timeout=self.time_limit):
            raise QueueFullError("the grammar compiler is busy", retry_after=self.time_limit)
        future: Future[Built] = Future()
        _start_with_deep_stack(lambda: self._fulfil(future, build))
        return future.result(self.time_limit)

    def _fulfil(self, future: Future[Built], build: Callable[[], Built]) -> None:
        try:
            result = build()
        except BaseException as error:
            self._lane.release()
            future.set_exception(error)
        else:
            self._lane.release()
            future.set_result(result)


def _start_with_deep_stack(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, name="grammar-build", daemon=True)
    with _STACK_SIZE_LOCK:
        usual = threading.stack_size(_STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(usual)
