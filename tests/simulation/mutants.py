"""Mutants: errors that are planted in the services, each of which the simulation has to find."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from engine_service.engine.async_engine import AsyncEngine
from simulation.runs import run_seeds
from simulation.scenario import Shape

MAX_REQUESTS = 10_000
"""Within which each must be found."""


def _not_released() -> AbstractContextManager[Any]:
    """A cancelled stream is not released at the engine."""
    return patch.object(AsyncEngine, "release", lambda self, stream: None)


MUTANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "a cancelled stream is not released": _not_released,
}


def hunt(shape: Shape, first: int) -> int:
    """Plants each; prints after how many requests it was found. Returns how many were not."""
    num_missed = 0
    for name, plant in MUTANTS.items():
        num_requests, complaint = hunted(plant, shape, first)
        num_missed += not complaint
        print(f"{name}: {complaint or 'not found'}, after {num_requests} requests", flush=True)
    return num_missed


def hunted(
    plant: Callable[[], AbstractContextManager[Any]], shape: Shape, first: int = 1
) -> tuple[int, str]:
    """After how many requests a planted error shows, and as what; empty if it does not."""
    num_requests, seed = 0, first
    while num_requests < MAX_REQUESTS:
        with plant():
            total = run_seeds([seed], shape)
        num_requests += total.num_requests
        if total.complaints:
            return num_requests, total.complaints[0]
        seed += 1
    return num_requests, ""


