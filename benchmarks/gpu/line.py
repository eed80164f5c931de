"""Line: what the GPU benchmark found of one thing, and what it must move and compute for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ROOFLINE = "roofline"
COPY, MATMUL = "copy", "matmul"


@dataclass(frozen=True, slots=True)
class Line:
    """A time with what was done in it. One that failed, or was left out, says why instead."""

    section: str
    name: str
    seconds: float | None = None
    """Of one call, one step or the whole, as the section says."""
    num_bytes: float = 0.0
    """What has to be read and written in that time."""
    operations: float = 0.0
    """Floating point operations of it."""
    tokens: float = 0.0
    """Tokens that were generated, or prompt tokens that were computed, in that time."""
    extras: Mapping[str, float] = field(default_factory=dict)
    """What else was found, each name with its unit."""
    note: str = ""
    error: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Line":
        """From `dataclasses.asdict`."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})

    @property
    def key(self) -> tuple[str, str]:
        """Section and name, which no other line has."""
        return self.section, self.name

    @property
    def rate(self) -> float | None:
        """Tokens a second, where it is about tokens."""
        return self.tokens / self.seconds if self.seconds and self.tokens else None


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device reached in the same run; None where that was not measured."""

    bytes_per_s: float | None = None
    """Of a large copy, reading and writing counted."""
    operations_per_s: float | None = None
    """Of a large matrix product in bfloat16."""

    @classmethod
    def of(cls, lines: Iterable[Line]) -> "Ceilings":
        """From the lines of the section `roofline`."""
        found = {line.name: line for line in lines if line.section == ROOFLINE and line.seconds}
        copy, matmul = found.get(COPY), found.get(MATMUL)
        return cls(
            copy.num_bytes / copy.seconds if copy and copy.seconds else None,
            matmul.operations / matmul.seconds if matmul and matmul.seconds else None,
        )

    def share_of_copy(self, line: Line) -> float | None:
        """Which share of the copy's bandwidth a line's bytes came to."""
        return _share(line.num_bytes, line.seconds, self.bytes_per_s)

    def share_of_matmul(self, line: Line) -> float | None:
        """Which share of the matrix product's rate a line's operations came to."""
        return _share(line.operations, line.seconds, self.operations_per_s)


def _share(amount: float, seconds: float | None, ceiling: float | None) -> float | None:
    return amount / seconds / ceiling if amount and seconds and ceiling else None
