"""Work: what a child does with a job, and what it may take. Both ends of the pipes know it."""

from collections.abc import Callable
from dataclasses import dataclass

# A job's payload to its result.
Job = Callable[[bytes], bytes]
# From Work.setup to what does the jobs.
Prepare = Callable[[bytes], Job]


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a child that is to be spawned."""

    prepare: str
    """`module:function`, a Prepare. A child calls it once, before its first job."""
    setup: bytes
    """What `prepare` is given."""
    max_bytes: int
    """Memory that jobs may take beyond what `prepare` has loaded."""
