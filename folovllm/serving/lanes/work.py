"""Work: what is to be done with a job. The service and its processes know it."""

from collections.abc import Callable
from dataclasses import dataclass

# A job's payload to its result.
Job = Callable[[bytes], bytes]
# From Work.setup to what does the jobs.
Prepare = Callable[[bytes], Job]


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a process that is to be spawned."""

    jobs: str
    """What errors call the jobs: a plural."""
    prepare: str
    """`module:function`, a Prepare. The process calls it once, before its first job."""
    setup: bytes
    """What `prepare` is given."""
    stack_bytes: int = 0
    """Of the thread that does a job; 0 for the usual."""
