"""Measurement: what one engine reached in one case, every repeat of it."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.peers.contender_name import ContenderName

Unit = Literal["tok/s", "ms", "s", "MiB"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """The repeats of a case by one engine. More is better of tok/s, less of all else."""

    case: str
    engine: str
    """As ContenderName writes it."""
    unit: Unit
    values: tuple[float, ...]
    bound: float | None = None
    """What the roofline allows, in the same unit, where it says something."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Measurement":
        """From what `to_json` made."""
        own = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**own | {"values": tuple(own["values"])})

    @property
    def name(self) -> ContenderName:
        """The engine's name in its parts."""
        return ContenderName.parse(self.engine)

    @property
    def median(self) -> float:
        """The middle one of the repeats."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the distance from the least to the greatest repeat, as a share of the median."""
        return (max(self.values) - min(self.values)) / 2 / self.median

    @property
    def of_bound(self) -> float | None:
        """Which share of the bound's speed was reached."""
        return None if self.bound is None else self._speed_over(self.median, self.bound)

    def speed_over(self, other: "Measurement") -> float:
        """How many times as fast as another engine in the same case."""
        return self._speed_over(self.median, other.median)

    def to_json(self) -> dict[str, object]:
        """All of it, with what follows from it."""
        return asdict(self) | {
            "median": self.median,
            "spread": self.spread,
            "of_bound": self.of_bound,
        }

    def _speed_over(self, mine: float, other: float) -> float:
        return mine / other if self.unit == "tok/s" else other / mine


def by_case(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Grouped, in the order of their first appearance."""
    cases: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        cases.setdefault(measurement.case, []).append(measurement)
    return cases
