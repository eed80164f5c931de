"""Standard output and error of a process that must not depend on who reads them."""

import atexit
import io
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from folovllm.serving.output.line_stream import LineStream
from folovllm.serving.output.line_writer import LineWriter

# Seconds that the last lines get at the end of the process.
_LAST_LINES = 1.0


def dropped_line(count: int) -> str:
    """Says how many lines were dropped, for people."""
    return f"warning: {count} lines dropped, which could not be written\n"


def unblock_standard_streams(
    report: Callable[[int], str] = dropped_line, *, threaded: bool = True
) -> None:
    """Replaces sys.stdout and sys.stderr by LineStreams, for the rest of the process.

    `report` and `threaded` are LineWriter's. A stream that is no file, as tests have it, stays.
    """
    for name in ("stdout", "stderr"):
        try:
            fd = getattr(sys, name).fileno()
        except (AttributeError, io.UnsupportedOperation):  # closed, or no file
            continue
        _stop_blocking(fd)
        setattr(sys, name, LineStream(LineWriter(fd, report, threaded=threaded)))
    atexit.unregister(finish_output)
    atexit.register(finish_output)


def finish_output(seconds: float = _LAST_LINES) -> None:
    """For the end of the process: writes what is queued, but gives up after so many seconds."""
    give_up = time.monotonic() + seconds
    for stream in (sys.stderr, sys.stdout):
        if isinstance(stream, LineStream):
            stream.flush()
            stream.writer.finish(max(0.0, give_up - time.monotonic()))


def exit_now(status: int) -> NoReturn:
    """Ends the process whatever its threads do, after its last lines."""
    finish_output()
    os._exit(status)


def exit_after_cleanup(status: int) -> NoReturn:
    """Ends the process as its interpreter would, but for what frees memory that ends with it."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it, or it was closed
            stream.flush()
    os._exit(status)


def num_dropped_lines() -> int:
    """How many lines this process could not print."""
    streams = (sys.stdout, sys.stderr)
    return sum(each.writer.num_dropped for each in streams if isinstance(each, LineStream))


def _stop_blocking(fd: int) -> None:
    """Keeps code outside of Python, such as gRPC's own messages, from blocking in a write.

    The descriptor is opened anew, since it shares its flags with other processes. Where that is not
    possible, for example since the pipe belongs to another user, it stays as it is.
    """
    kind = os.fstat(fd).st_mode
    if not (stat.S_ISFIFO(kind) or os.isatty(fd)):
        return  # a file would be written from its beginning, and a socket cannot be opened
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        opened = os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return
    os.dup2(opened, fd)
    os.close(opened)
