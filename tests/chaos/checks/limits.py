"""Limits: what may be slow, and how slow. The suite's short form has none, for busy machines."""

from dataclasses import dataclass, fields

from engine_service.config import EngineServiceConfig


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds."""

    canary_gap: float = 1.0
    """Between two messages of a stream that no fault concerns."""
    health: float = 0.5
    """For an answer about health."""
    new_request: float = 5.0
    """For a small request that comes after a fault."""

    def watchdog_flags(self, seconds: float) -> tuple[str, ...]:
        """Those that set the watchdog's floor, if the engine service has one."""
        names = {each.name for each in fields(EngineServiceConfig)}
        return ("--watchdog-seconds", f"{seconds:g}") if "watchdog_seconds" in names else ()


PATIENT = Limits(canary_gap=60.0, health=60.0, new_request=60.0)
"""Of a machine that does many other things."""
