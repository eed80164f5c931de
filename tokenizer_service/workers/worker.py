"""Worker: one of the processes, as its parent sees it, and Heart, which tells that it lives."""

import asyncio
import os
import signal
import time
from contextlib import suppress

# Seconds between two signs of life.
_BEAT_INTERVAL = 0.5
# Seconds for the stacks of a worker that hangs.
_LAST_WORDS = 2


class Worker:
    """A running worker, which gives signs of life through a pipe."""

    def __init__(self, pid: int, beats: int) -> None:
        """`beats` is the reading end, which must not block."""
        self.pid = pid
        self.beats = beats
        self.started_at = time.monotonic()
        self.silent_for = 0
        """Seconds without a sign of life in which the parent itself ran."""

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started_at

    def hear(self) -> None:
        """Takes the signs of life that have come."""
        if os.read(self.beats, 4096):
            self.silent_for = 0

    def tick(self, limit: int) -> bool:
        """Counts a second; True when it has been silent for `limit` of them, and is ended."""
        self.silent_for += 1
        if self.silent_for == limit + _LAST_WORDS:
            self.send(signal.SIGKILL)
        if self.silent_for != limit:
            return False
        # Leaves the stacks of its threads in the log; one that was stopped has to go on for that.
        self.send(signal.SIGABRT)
        self.send(signal.SIGCONT)
        return True

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def close(self) -> None:
        """Closes the parent's end of the pipe."""
        os.close(self.beats)


class Heart:
    """Gives a worker's signs of life."""

    def __init__(self, beats: int) -> None:
        """`beats` is the writing end of a pipe, which must not block."""
        self._beats = beats

    def beat(self) -> None:
        """Gives one. Never waits or fails."""
        with suppress(OSError):  # the parent has stopped, or is gone
            os.write(self._beats, b".")

    async def keep_beating(self) -> None:
        """Gives them as long as the event loop runs."""
        while True:
            self.beat()
            await asyncio.sleep(_BEAT_INTERVAL)
