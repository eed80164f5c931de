"""Ticket: a request that was admitted, until it has ended."""

from dataclasses import dataclass

from engine_service.overload.demand import Demand


@dataclass(slots=True, eq=False)
class Ticket:
    """What admission knows of it. Only the first two fields never change."""

    demand: Demand
    num_tokens: float
    """Its work, as it is reckoned with."""
    arrival_time: float
    """When it came for the first time: it is queued before what came later."""
    handicap: float = 0.0
    """Seconds by which it is queued as if it had come later."""
    submitted: bool = False
    """Whether the engine has it; before that it can be withdrawn."""
    began: float | None = None
    """When it has left the queue."""
    ended: bool = False
