"""What is sent between a service, the process that it has started, and that one's workers.

Fixed binary headers and plain bytes: whatever a job's payload holds, reading a frame runs no code
of it, as unpickling would.
"""

import struct
from enum import IntEnum

ORDER = struct.Struct("<IdBI")
"""A job's number, its seconds of processor time, its niceness, and the length of its payload. With
no seconds: the worker of the job with this number is to be killed."""
REPLY = struct.Struct("<IBiI")
"""A job's number, an Outcome, the status of a worker that has ended, and the length of what
follows. Number 0 says that the process is ready."""


class Outcome(IntEnum):
    """How a job ended."""

    DONE = 0
    """The result follows."""
    FAILED = 1
    """The work raised something, which is a bug; its text follows."""
    ENDED = 2
    """The worker has ended by itself, or was ended; nothing follows."""


def reply(number: int, outcome: Outcome, data: bytes = b"", status: int = 0) -> bytes:
    """The frame."""
    return REPLY.pack(number, outcome, status, len(data)) + data
