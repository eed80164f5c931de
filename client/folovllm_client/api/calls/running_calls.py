"""RunningCalls: the calls of a client, or of one method of it, to end them together."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Cancellable(Protocol):
    """A call, or several."""

    def cancel(self) -> object:
        """Ends what still runs."""


class RunningCalls:
    """The calls that run. Threads may share it."""

    def __init__(self) -> None:
        self._calls: set[Cancellable] = set()
        self._lock = threading.Lock()
        self.cancelled = False

    @contextmanager
    def running(self, call: Cancellable) -> Iterator[None]:
        """Within it, `cancel` ends the call; at its end nothing of the call is left running."""
        with self._lock:
            self._calls.add(call)
        try:
            if self.cancelled:
                call.cancel()
            yield
        finally:
            with self._lock:
                self._calls.discard(call)
            call.cancel()

    def cancel(self) -> None:
        """Ends all calls, and those that are still to come."""
        self.cancelled = True
        with self._lock:
            calls = tuple(self._calls)
        for call in calls:
            call.cancel()
