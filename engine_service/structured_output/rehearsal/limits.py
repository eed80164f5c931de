"""RehearsalLimits: what a build may take before the engine knows what it costs."""

from dataclasses import dataclass

from folovllm.serving.lanes.limits import JobLimits


@dataclass(frozen=True, slots=True)
class RehearsalLimits(JobLimits):
    """The limits of a job that builds a grammar, and two of what is built."""

    long_seconds: float = 1.0
    memory_bytes: int = 256 * 2**20
    max_waiting_bytes: int = 8 * 2**20
    max_wait_seconds: float | None = 10.0
    idle_seconds: float | None = 600.0
    kept_bytes: int = 48 * 2**20
    """Of what a build leaves, which the engine will hold. A grammar that takes more is refused."""
    token_seconds: float = 0.02
    """Processor time of a token, for which all others wait. Most take less than 2 ms."""
