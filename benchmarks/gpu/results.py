"""GpuResults: what one run of the GPU benchmark found, and where; kept as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.gpu.line import Line
from folovllm.errors import ConfigError


@dataclass(slots=True)
class GpuResults:
    """One run; its lines come one after another."""

    time: str
    """When it began, in ISO 8601."""
    command: str
    model: str
    machine: str = ""
    lines: list[Line] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "GpuResults":
        """Reads a file that `save` wrote. Raises ConfigError where it is none."""
        try:
            values = json.loads(path.read_text())
            return cls(**values | {"lines": [Line.from_json(each) for each in values["lines"]]})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} holds no results: {error}") from None

    def save(self, path: Path) -> None:
        """Writes all lines so far, with the rates that follow from them."""
        lines = [asdict(line) | {"rate": line.rate} for line in self.lines]
        path.write_text(json.dumps(asdict(self) | {"lines": lines}, indent=1))

    @property
    def head(self) -> str:
        """What the run was, in lines."""
        return f"{self.model} on {self.machine}\n{self.time}"
