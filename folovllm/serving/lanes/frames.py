"""What is sent through the pipes between a service and its children: headers, then bytes.

Fixed binary headers and plain bytes: whatever a job's payload holds, reading a frame runs no code
of it, as unpickling would.
"""

import struct
from enum import IntEnum

JOB = struct.Struct("<dI")
"""Seconds of processor time that the job may take, and the length of its payload."""
REPLY = struct.Struct("<BI")
"""An Outcome, and the length of what follows."""
SETUP = struct.Struct("<QI")
"""Work.max_bytes, and the length of Work.setup; the first frame."""


class Outcome(IntEnum):
    """How a job ended in a child that lives on."""

    DONE = 0
    """The result follows."""
    OVER_TIME = 1
    OVER_MEMORY = 2
    FAILED = 3
    """The work raised something, which is a bug; its text follows."""
