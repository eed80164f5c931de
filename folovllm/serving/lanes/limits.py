"""JobLimits: what a job may take, of which nobody knows what it costs."""

from dataclasses import dataclass

SHORT_SECONDS = 0.2
MAX_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Times in seconds. Processor time counts where a job runs, whatever runs beside it."""

    short_seconds: float = SHORT_SECONDS
    """Of processor time in the short lane, where every job begins."""
    long_seconds: float = MAX_SECONDS
    """Of processor time in the long lanes, to which those go that take longer."""
    num_long_lanes: int = 2
    wall_seconds: float = 10.0
    """For a job that gets too little of the processor."""
    start_seconds: float = 60.0
    """For the process from which workers are forked, to prepare the work."""
    memory_bytes: int = 512 * 2**20
    """Of one job, at any time, beyond what was prepared."""
    max_waiting: int = 256
    max_waiting_bytes: int = 256 * 2**20
    max_wait_seconds: float | None = None
    """Until a job begins in a lane; after that, it is refused for now."""
    idle_seconds: float | None = None
    """Without a job until the process ends; the next one starts it again."""
