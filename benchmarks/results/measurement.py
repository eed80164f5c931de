"""Measurement: what one engine reached in one case, every repeat of it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.harness.engine_name import EngineName

Unit = Literal["tok/s", "deltas/s", "tok/step", "tokens", "ms", "us", "s", "MiB", "x", ""]


@dataclass(frozen=True, slots=True)
class Measurement:
    """The repeats of a case by one engine. Without values it failed, and the note says why."""

    case: str
    engine: str
    """As EngineName writes it."""
    unit: Unit
    """Higher is better of tokens, rates and ratios (x), lower of all else."""
    values: tuple[float, ...]
    bound: float | None = None
    """What the ceilings allow, in the same unit, if they say anything."""
    note: str = ""

    @classmethod
    def failed(cls, case: str, engine: str, reason: str) -> "Measurement":
        """One that was not measured."""
        return cls(case, engine, "", (), note=reason)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Measurement":
        """From what `dataclasses.asdict` made, and JSON kept."""
        return cls(**values | {"values": tuple(values["values"])})

    @property
    def name(self) -> EngineName:
        """The engine's name in its parts."""
        return EngineName.parse(self.engine)

    @property
    def median(self) -> float:
        """The middle one of the repeats."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the distance from the lowest to the highest repeat, as a share of the median."""
        median = self.median
        return (max(self.values) - min(self.values)) / 2 / median if median else 0.0

    @property
    def of_bound(self) -> float | None:
        """Which share of the bound's speed was reached."""
        return None if self.bound is None else self._speed_over(self.median, self.bound)

    def speed_over(self, other: "Measurement") -> float:
        """How many times as fast as another engine in the same case."""
        return self._speed_over(self.median, other.median)

    def _speed_over(self, mine: float, other: float) -> float:
        higher_is_better = self.unit in ("tok/s", "deltas/s", "tok/step", "tokens", "x")
        return mine / other if higher_is_better else other / mine


def by_case(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Those that have values, grouped in the order of their first appearance."""
    cases: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        if measurement.values:
            cases.setdefault(measurement.case, []).append(measurement)
    return cases
