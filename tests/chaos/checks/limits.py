"""Limits: what may be slow, and how slow. The suite's short form is patient, for busy machines."""

from dataclasses import dataclass

from engine_service.config import EngineServiceConfig
from folovllm.serving.args import options

DETECTION_SECONDS = 10.0
"""From what is detected to what is right again, or ended with a reason."""
WATCHDOG_SECONDS = 3.0
"""The watchdog's floor here; its default of 30 s would make the matrix last for hours."""
_WATCHDOG_FLAG = "--max-step-seconds"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds."""

    canary_gap: float = 1.0
    """Between two messages of a stream that no fault concerns."""
    health: float = 0.5
    """For an answer about health."""
    new_request: float = 5.0
    """For a small request that comes after a fault."""
    detection: float = DETECTION_SECONDS
    """From what is detected to what is right again."""
    patience: float = 1.0
    """A factor on the time in which the victims of a fault end."""


PATIENT = Limits(canary_gap=60.0, health=60.0, new_request=60.0, detection=60.0, patience=10.0)
"""Of a machine that does many other things."""


def watchdog_flags(seconds: float = WATCHDOG_SECONDS) -> tuple[str, ...]:
    """Those that set the watchdog's floor, if the engine service has one."""
    known = {flag for each in options(EngineServiceConfig()) for flag in each.opts}
    return (_WATCHDOG_FLAG, f"{seconds:g}") if _WATCHDOG_FLAG in known else ()
