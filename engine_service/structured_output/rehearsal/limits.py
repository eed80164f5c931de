"""RehearsalLimits: what a build may take before the engine knows what it costs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RehearsalLimits:
    """Times in seconds. Processor time counts where a build runs, whatever runs beside it."""

    fast_processor_seconds: float = 0.2
    """In the first lane, where every new grammar begins."""
    processor_seconds: float = 1.0
    """In the others, to which those go that take longer. A grammar that takes more is refused."""
    num_slow_lanes: int = 2
    wall_seconds: float = 10.0
    """For a build that gets too little of the processor."""
    start_seconds: float = 60.0
    """For the process from which builders are forked to read the vocabulary."""
    memory_bytes: int = 256 * 2**20
    """Of one build, at any time."""
    kept_bytes: int = 48 * 2**20
    """Of what a build leaves, which the engine will hold. A grammar that takes more is refused."""
    token_seconds: float = 0.02
    """Processor time of a token, for which all others wait. Most take less than 2 ms."""
    max_queued: int = 256
    max_queued_bytes: int = 8 * 2**20
    max_wait_seconds: float = 10.0
    """Until a build begins in a lane; after that, the request is refused for now."""
    idle_seconds: float = 600.0
    """Without a build until the process ends; the next one starts it again."""
