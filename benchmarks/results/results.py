"""Results: what one run of a benchmark found, and where; kept as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.harness.ceilings import Ceilings
from benchmarks.results.measurement import Measurement
from folovllm.errors import ConfigError


@dataclass(slots=True)
class Results:
    """One run; measurements are added as they are made."""

    benchmark: str
    """Its name on the command line."""
    setting: str
    """Model, threads and whatever else holds for all of it, in words."""
    machine: str
    time: str
    """When it began, in ISO 8601."""
    command: str
    ceilings: Ceilings | None = None
    versions: dict[str, str] = field(default_factory=dict)
    """By the engines' names."""
    measurements: list[Measurement] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Reads a file that `save` wrote. Raises ConfigError if it is not one."""
        try:
            values = json.loads(path.read_text())
            ceilings = values["ceilings"]
            parts = {
                "ceilings": ceilings and Ceilings(**ceilings),
                "measurements": [Measurement.from_json(each) for each in values["measurements"]],
            }
            return cls(**values | parts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} holds no results: {error}") from None

    def save(self, path: Path) -> None:
        """Writes every repeat of every case."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @property
    def title(self) -> str:
        """Setting and machine, on one line."""
        return f"{self.setting}; {self.machine}"

    @property
    def head(self) -> str:
        """What the run was, in lines."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        moment = f"{self.time}; {self.ceilings}" if self.ceilings else self.time
        return "\n".join(filter(None, (self.title, moment, versions)))


def merged(runs: Sequence[Results]) -> list[Measurement]:
    """All measurements; of what several runs measured, the last one's."""
    latest = {(each.case, each.engine): each for run in runs for each in run.measurements}
    return list(latest.values())
