"""LineStream: a LineWriter as a text stream, to take the place of sys.stdout or sys.stderr."""

import io
import os
import threading

from folovllm.serving.output.line_writer import LineWriter


class LineStream(io.TextIOBase):
    """Passes whole lines on, and an unfinished one when it is flushed. No call waits or fails."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, writer: LineWriter) -> None:
        self.writer = writer
        self._unfinished = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Takes text; returns its length."""
        whole, end, unfinished = text.rpartition("\n")
        with self._lock:
            if end:
                self.writer.write(self._unfinished + whole + end)
                self._unfinished = unfinished
            else:
                self._unfinished += unfinished
        return len(text)

    def flush(self) -> None:
        """Passes on what has no line break yet, as progress bars have it."""
        with self._lock:
            unfinished, self._unfinished = self._unfinished, ""
        if unfinished:
            self.writer.write(unfinished)

    def fileno(self) -> int:
        """The descriptor that the lines go to."""
        return self.writer.fd

    def isatty(self) -> bool:
        """Whether they go to a terminal."""
        return os.isatty(self.writer.fd)

    def writable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Does nothing: the descriptor is the process's."""
