"""Reading a file of records, line by line. What is wrong with it names the line."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from folovllm.errors import ConfigError
from folovllm.records.record import Origin, Record, RecordError

MAX_LINE_BYTES = 256 * 1024 * 1024
"""Of a line; the longest that may be written is far below."""


@dataclass(slots=True)
class RecordSummary:
    """What a file holds."""

    num_records: int = 0
    num_tokens: int = 0
    origins: dict[Origin, int] = field(default_factory=dict)
    """What computed the records, each with how many it was."""


def read_records(file: Path) -> Iterator[tuple[int, Record]]:
    """The records, each with the number of its line, from 1. Raises ConfigError."""
    try:
        with file.open("rb") as lines:
            number = 0
            while line := lines.readline(MAX_LINE_BYTES):
                number += 1
                if not line.endswith(b"\n"):
                    raise _problem(file, number, "is cut off: it has no end")
                try:
                    record = Record.from_line(line)
                except RecordError as error:
                    raise _problem(file, number, str(error)) from None
                yield number, record
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None


def check_records(file: Path, problem_of: Callable[[Record], str]) -> RecordSummary:
    """Reads a whole file, keeping nothing, and sums it up.

    Raises ConfigError that names the line: of one that is no record, or with which there is a
    problem, of which `problem_of` says what continues a sentence about the line; empty is none.
    """
    summary = RecordSummary()
    for number, record in read_records(file):
        if problem := problem_of(record):
            raise _problem(file, number, problem)
        summary.num_records += 1
        summary.num_tokens += record.num_tokens
        summary.origins[record.origin] = summary.origins.get(record.origin, 0) + 1
    if not summary.num_records:
        raise ConfigError(f"{file} is empty: there is nothing to replay")
    return summary


def _problem(file: Path, number: int, problem: str) -> ConfigError:
    return ConfigError(f"{file}, line {number} {problem}")
