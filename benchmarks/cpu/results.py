"""Results: what one run of the CPU benchmark found, and where; kept as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.cpu.measurement import Measurement
from benchmarks.cpu.roofline import Roofline
from folovllm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Results:
    """One run."""

    time: str
    """When it began, in ISO 8601."""
    command: str
    machine: str
    model: str
    threads: int
    versions: Mapping[str, str]
    """By the engines' names."""
    roofline: Roofline
    measurements: tuple[Measurement, ...]

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Reads a file that `save` wrote. Raises ConfigError where it is none."""
        try:
            values = json.loads(path.read_text())
            parts = {
                "roofline": Roofline(**values["roofline"]),
                "measurements": tuple(map(Measurement.from_json, values["measurements"])),
            }
            return cls(**values | parts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} holds no results: {error}") from None

    def save(self, path: Path) -> None:
        """Writes every repeat of every case."""
        measurements = [each.to_json() for each in self.measurements]
        path.write_text(json.dumps(asdict(self) | {"measurements": measurements}, indent=1))

    @property
    def title(self) -> str:
        """Model and machine, on one line."""
        return f"{self.model}, {self.threads} threads of {self.machine}"

    @property
    def head(self) -> str:
        """What the run was, in lines."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.title}\n{self.time}; {self.roofline}\n{versions}"


def merged(runs: Sequence[Results]) -> list[Measurement]:
    """All measurements; what several runs measured counts as in the last one."""
    latest = {(each.case, each.engine): each for run in runs for each in run.measurements}
    return list(latest.values())
