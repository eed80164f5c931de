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
        self.is_stopped = False
        """Whether a signal stopped it, so that it does not run until another one."""
        self._last_words: int | None = None  # seconds until it is killed, once it is ended

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started_at

    def hear(self) -> None:
        """Takes the signs of life that have come."""
        if os.read(self.beats, 4096):
            self.silent_for = 0

    def tick(self, limit: int) -> bool:
        """Counts a second; True when it has been silent for `limit` of them, and is to be ended."""
        self.silent_for += 1
        if self._last_words is None:
            return self.silent_for >= limit
        self._last_words -= 1
        if self._last_words == 0:
            self.send(signal.SIGKILL)
        return False

    def end(self) -> None:
        """Ends it: SIGABRT leaves the stacks of its threads in the log, SIGKILL comes later."""
        self._last_words = _LAST_WORDS
        self.send(signal.SIGABRT)
        self.send(signal.SIGCONT)  # one that was stopped has to go on for that

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
