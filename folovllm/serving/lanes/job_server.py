"""What a child runs: one job after the other, from standard input to standard output.

    python -P -m folovllm.serving.lanes.job_server NICENESS MODULE:FUNCTION

It ends when its input does, which is when the service ends, for whatever reason.
"""

import os
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from struct import Struct
from typing import BinaryIO

from folovllm.serving.lanes.frames import JOB, REPLY, SETUP, Outcome
from folovllm.serving.lanes.limits import OverTime, TimeLimit, limit_memory
from folovllm.serving.lanes.work import Job, Prepare
from folovllm.serving.memory.settling import return_free_memory, settle_memory

# The memory that smaller jobs leave free is used again by the next one.
_LARGE_JOB = 64 * 1024


def serve_jobs(prepare: Prepare, jobs: BinaryIO, replies: BinaryIO) -> None:
    """Does jobs until there are no more. Belongs to the main thread."""
    setup = _read_frame(jobs, SETUP)
    if setup is None:
        return
    max_bytes, data = setup
    job = prepare(data)
    settle_memory()
    limit_memory(int(max_bytes))
    time_limit = TimeLimit()
    _reply(replies, Outcome.DONE, b"")  # it is ready
    while (frame := _read_frame(jobs, JOB)) is not None:
        seconds, payload = frame
        _reply(replies, *_do(job, payload, seconds, time_limit))
        if len(payload) >= _LARGE_JOB:
            del payload, frame
            return_free_memory()


def _do(job: Job, payload: bytes, seconds: float, time_limit: TimeLimit) -> tuple[Outcome, bytes]:
    try:
        return Outcome.DONE, time_limit.run(lambda: job(payload), seconds)
    except OverTime:
        return Outcome.OVER_TIME, b""
    except MemoryError:
        return Outcome.OVER_MEMORY, b""
    except BaseException as error:  # a library's own may be derived from it
        return Outcome.FAILED, "".join(traceback.format_exception(error)).encode(errors="replace")


def _read_frame(file: BinaryIO, header: Struct) -> tuple[float, bytes] | None:
    """The number and the bytes of the next frame; None at the end."""
    head = file.read(header.size)
    if len(head) < header.size:
        return None
    number, length = header.unpack(head)
    data = file.read(length)
    return (number, data) if len(data) == length else None


def _reply(file: BinaryIO, outcome: Outcome, data: bytes) -> None:
    file.write(REPLY.pack(outcome, len(data)) + data)
    file.flush()


def main() -> None:
    """Serves the function that the command line names."""
    # A terminal sends it to the service too, which ends its children by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Whatever a library may print must not get between the replies.
    os.dup2(2, 1)
    niceness, name = sys.argv[1:]
    os.nice(int(niceness))
    module, _, function = name.partition(":")
    # Raised when nobody waits for the reply any more.
    with suppress(BrokenPipeError, ConnectionResetError):
        serve_jobs(getattr(import_module(module), function), jobs, replies)
    os._exit(0)  # at once: there is nothing to tidy up


if __name__ == "__main__":
    main()
