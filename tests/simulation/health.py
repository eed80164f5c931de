"""Health: which engines each front end could have used, and when; and which ends were due."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from folovllm.errors import (
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    RequestFailedError,
    RequestLostError,
    UnavailableError,
)
from simulation.callers import BrokenError, Record
from simulation.engine_host import EngineHost
from simulation.messages import prompt_of
from simulation.scenario import KILLER, POISON
from simulation.tags import tag_of_prompt

# Seconds that an engine must have been well for, until every front end uses it.
_SETTLED = 2.0
# The longest pause of a stream where no engine is silent: some seconds, and so many steps.
_PAUSE, _PAUSE_STEPS = 2.0, 600.0


@dataclass
class Trouble:
    """What was wrong between a front end and an engine."""

    engine: int
    front_end: int | None
    """None if it was wrong with the engine, for all."""
    begins: float
    ends: float = math.inf
    is_death: bool = False
    is_drain: bool = False


class Health:
    """All troubles of a run."""

    def __init__(self, numerics: Sequence[str]) -> None:
        """`numerics` are those of each engine."""
        self.num_engines = len(numerics)
        self._numerics = numerics
        self.troubles: list[Trouble] = []
        self.jumps: list[tuple[float, float]] = []
        """When the clock jumped, and by how much."""
        self.absences: list[tuple[float, float]] = []
        """When a front end died, and for how long there was none in its place."""

    @property
    def has_cuts(self) -> bool:
        """Whether any engine was silent for some time, to any front end."""
        return any(not (each.is_death or each.is_drain) for each in self.troubles)

    def begin(
        self, engine: int, front_end: int | None, now: float, is_death: bool = False
    ) -> Trouble:
        """Something goes wrong."""
        trouble = Trouble(engine, front_end, now, is_death=is_death)
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

    def has_steady_engine(self, front_end: int, now: float, numerics: str = "") -> bool:
        """Whether one of these numerics, if any are given, was well for long enough."""
        ill = {each.engine for each in self.of(front_end, now, now)}
        well = (each for number, each in enumerate(self._numerics) if number not in ill)
        return any(not numerics or each == numerics for each in well)


def undue(record: Record, health: Health, hosts: list[EngineHost]) -> str:
    """Why the error that a request has ended with was not due; empty if it was."""
    error, spec = record.error, record.spec
    assert error is not None and record.ended is not None
    what = f"ends with {type(error).__name__}: {error}"
    if isinstance(error, BrokenError):
        return ""
    if isinstance(error, RequestFailedError):
        return "" if spec.prompt[-1] == POISON else what
    if isinstance(error, QueueFullError):
        # An engine that stood still believes that it is slow.
        refuses = any(host.setting.target_queue_seconds is None for host in hosts)
        refuses |= health.has_cuts or bool(health.jumps)
        return "" if refuses and not record.num_messages else what
    if isinstance(error, NotFoundError):
        return "" if record.kind == "fork" else what
    if isinstance(error, InvalidRequestError):
        return "" if record.kind == "fork" and error.field.startswith("branches") else what
    if not isinstance(error, UnavailableError):
        return what
    if spec.prompt[-1] == KILLER or _num_losses(record, health, hosts) >= 2:
        return ""
    info = record.infos.get(0)
    numerics = "" if info is None else info.numerics_fingerprint
    return what if health.has_steady_engine(record.front_end, record.ended, numerics) else ""


def _num_losses(record: Record, health: Health, hosts: list[EngineHost]) -> int:
    """How many engines it may have been lost with since its last new token."""
    spec, begins, ends = record.spec, record.started, record.ended
    assert ends is not None
    if not spec.pause and record.last_token is not None:
        begins = record.last_token - 0.1  # one that was on its way
    tag = tag_of_prompt(prompt_of(spec))
    # A front end knows what was ever computed, not what the last step was. A score is tried twice.
    all_count = record.kind == "score" or isinstance(record.error, RequestLostError)
    deaths = [
        time
        for host in hosts
        for time, tags in host.deaths
        if (all_count or tag in tags) and begins <= time <= ends
    ]
    cuts = [each for each in health.of(record.front_end, begins - 3.0, ends) if not each.is_death]
    return len(deaths) + len({each.engine for each in cuts})


def too_long(record: Record, health: Health, step_seconds: float) -> str:
    """What is wrong with the longest pause of a request that is complete; empty if nothing is."""
    spec, ended = record.spec, record.ended
    assert ended is not None
    troubles = health.of(record.front_end, record.started, ended)
    cut = [each for each in troubles if not (each.is_death or each.is_drain)]
    bound = _PAUSE + _PAUSE_STEPS * step_seconds + spec.pause
    # One that is silent is left after two seconds, or after ten if others are silent too.
    bound += sum(min(14.0, each.ends - each.begins) + 3.0 for each in cut)
    bound += sum(by for at, by in health.jumps if record.started <= at <= ended)
    if record.num_breaks:
        bound += sum(gone + 2.0 for at, gone in health.absences if record.started <= at <= ended)
    if len({each.engine for each in troubles}) == health.num_engines:
        bound += sum(min(6.0, each.ends - each.begins) for each in troubles)
    if record.longest_pause <= bound:
        return ""
    return f"pauses for {record.longest_pause:.1f} s, with {len(cut)} engines cut off"
