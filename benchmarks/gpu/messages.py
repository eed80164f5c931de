"""What a process of the GPU benchmark is told, and what it sends.

Without torch: whoever starts the processes need not wait for it.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.line import Line


@dataclass(frozen=True, slots=True)
class Task:
    """What a process is to measure."""

    folder: Path
    smoke: bool
    """On the CPU, with the sizes of a smoke run."""
    sections: tuple[str, ...]
    seconds: float = float("inf")
    """In which it has to end."""
    skipped: frozenset[tuple[str, str]] = frozenset()
    """(section, case) that an earlier process has begun."""


@dataclass(frozen=True, slots=True)
class Began:
    """A case is being measured."""

    section: str
    case: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What it runs on, in words."""

    words: str


@dataclass(frozen=True, slots=True)
class Finished:
    """All sections are done."""


Message = Began | Line | Machine | Finished
