"""LineWriter: writes lines to a file descriptor and never blocks or fails who writes them.

    write ──▶ bounded queue ──▶ thread ──▶ file descriptor

What is at its other end may stop reading, go away or be full. Lines that find no room in the queue,
or that cannot be written, are dropped and counted; a line says how many once one can be written.
"""

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

_MAX_QUEUED_BYTES = 4 * 1024 * 1024
# Written at once: whole up to here, so that lines of several processes do not mix.
_MAX_WRITTEN = select.PIPE_BUF
# Seconds.
_PAUSE = 0.005
_RETRY = 0.01


class LineWriter:
    """Takes lines from any thread.

    A process that forks must have no threads, so it writes `threaded=False`: each line at once if
    that is possible without waiting, else never. This is how a forked child begins, too.
    """

    def __init__(self, fd: int, report: Callable[[int], str], *, threaded: bool = True) -> None:
        """`report` gives the line, with its end, that says how many were dropped."""
        self.fd = fd
        self.num_dropped = 0
        """Lines that were dropped since the process began."""
        self._report = report
        self._unreported = 0
        self._threaded = threaded
        self._thread: threading.Thread | None = None
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._queued_bytes = 0
        # A signal's handler may write while its thread writes.
        self._lock = threading.RLock()
        self._is_broken_off = False  # a line has its beginning written, and only that
        self._writable = select.poll()
        self._writable.register(fd, select.POLLOUT)
        os.register_at_fork(after_in_child=self._begin_anew)

    def write(self, text: str) -> None:
        """Takes text, of whole lines if possible, and returns at once."""
        data = text.encode(errors="backslashreplace")
        with self._lock:
            if not self._has_thread():
                self._write_or_drop(data, wait=False)
            elif self._queued_bytes + len(data) > _MAX_QUEUED_BYTES:
                self._drop(data)
            else:
                self._queued_bytes += len(data)
                self._queue.put(data)

    def finish(self, seconds: float) -> None:
        """For the end of the process: writes what is queued, but gives up after `seconds`."""
        written = threading.Event()
        self._queue.put(written)
        # Otherwise the thread still waits for the reader, and later lines wait behind it.
        if self._thread is None or written.wait(seconds):
            self._threaded = False

    def _has_thread(self) -> bool:
        """Whether a thread writes; starts it for the first line."""
        if self._threaded and self._thread is None:
            thread = threading.Thread(target=self._run, name=f"write to {self.fd}", daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:  # the system has no more, or the interpreter ends
                self._threaded = False
        return self._threaded

    def _run(self) -> None:
        batch = b""
        while True:
            try:
                item = self._queue.get(block=not batch)
            except Empty:
                self._write_queued(batch)
                batch = b""
                # Waking this thread costs more than a line; what comes meanwhile is one batch.
                time.sleep(_PAUSE)
                continue
            if not isinstance(item, bytes):
                self._write_queued(batch)
                batch = b""
                item.set()
            elif len(batch) + len(item) > _MAX_WRITTEN:
                self._write_queued(batch)
                batch = item
            else:
                batch += item

    def _write_queued(self, batch: bytes) -> None:
        # This thread is the only one: whatever goes wrong, it goes on.
        with suppress(Exception):
            self._write_or_drop(batch, wait=True)
        with self._lock:
            self._queued_bytes -= len(batch)

    def _write_or_drop(self, data: bytes, *, wait: bool) -> None:
        unreported = self._unreported
        if unreported and self._write_out(self._report(unreported).encode(), wait=wait):
            with self._lock:
                self._unreported -= unreported
        if not self._write_out(data, wait=wait):
            self._drop(data)

    def _drop(self, data: bytes) -> None:
        lines = data.count(b"\n") or 1
        with self._lock:
            self.num_dropped += lines
            self._unreported += lines

    def _write_out(self, data: bytes, *, wait: bool) -> bool:
        """Writes all of it, waiting for a reader that lags if asked to; False if that fails."""
        if self._is_broken_off:
            data = b"\n" + data
        written = 0
        while written < len(data) and self._writable.poll(None if wait else 0):
            try:
                written += os.write(self.fd, data[written : written + _MAX_WRITTEN])
            except BlockingIOError:
                if not wait:
                    break
                time.sleep(_RETRY)
            except OSError:
                break
        self._is_broken_off = written < len(data) and (written > 0 or self._is_broken_off)
        return written == len(data)

    def _begin_anew(self) -> None:
        """In a forked child: its thread is the parent's, and so is what is queued."""
        self._threaded, self._thread = False, None
        self._queue, self._queued_bytes = SimpleQueue(), 0
        self._lock = threading.RLock()
