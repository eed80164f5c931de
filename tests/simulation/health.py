"""Health: which engines each front end could have used, and when; and which ends were due."""

import math
from dataclasses import dataclass

from folovllm.errors import (
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    RequestFailedError,
    UnavailableError,
)
from simulation.callers import Record
from simulation.engine_host import TAG_SIZE, EngineHost
from simulation.scenario import KILLER, POISON

# Seconds that an engine must have been well for, until every front end uses it.
_SETTLED = 6.0


@dataclass
class Trouble:
    """What was wrong between a front end and an engine."""

    engine: int
    front_end: int | None
    """None if it was wrong with the engine, for all."""
    begins: float
    ends: float = math.inf


class Health:
    """All troubles of a run."""

    def __init__(self, num_engines: int) -> None:
        self._num_engines = num_engines
        self.troubles: list[Trouble] = []

    def begin(self, engine: int, front_end: int | None, now: float) -> Trouble:
        """Something goes wrong."""
        trouble = Trouble(engine, front_end, now)
        self.troubles.append(trouble)
        return trouble

    def of(self, front_end: int, begins: float, ends: float) -> list[Trouble]:
        """Those that may have been felt by a front end in some time."""
        return [
            each
            for each in self.troubles
            if each.front_end in (None, front_end)
            and each.begins <= ends
            and begins <= each.ends + _SETTLED
        ]

    def has_steady_engine(self, front_end: int, now: float) -> bool:
        """Whether one was well for long enough."""
        ill = {each.engine for each in self.of(front_end, now, now)}
        return len(ill) < self._num_engines


def undue(record: Record, health: Health, hosts: list[EngineHost]) -> str:
    """Why the error that a request has ended with was not due; empty if it was."""
    error, spec = record.error, record.spec
    assert error is not None and record.ended is not None
    what = f"ends with {type(error).__name__}: {error}"
    if isinstance(error, RequestFailedError):
        return "" if spec.prompt[-1] == POISON else what
    if isinstance(error, QueueFullError):
        refuses = any(host.setting.target_queue_seconds is None for host in hosts)
        return "" if refuses and not record.num_messages else what
    if isinstance(error, NotFoundError):
        return "" if record.kind == "fork" else what
    if isinstance(error, InvalidRequestError):
        return "" if record.kind == "fork" and error.field.startswith("branches") else what
    if not isinstance(error, UnavailableError):
        return what
    if spec.prompt[-1] == KILLER or _was_lost_twice(record, hosts):
        return ""
    if not health.has_steady_engine(spec.front_end, record.ended):
        return ""
    return what


def _was_lost_twice(record: Record, hosts: list[EngineHost]) -> bool:
    """Whether two engines were lost in a step that computed it."""
    tag = record.spec.prompt[-TAG_SIZE:]
    assert record.ended is not None
    lost = [
        time
        for host in hosts
        for time, tags in host.deaths
        if tag in tags and record.started <= time <= record.ended
    ]
    return len(lost) >= 2
