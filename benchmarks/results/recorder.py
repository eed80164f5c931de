"""Recorder: a run's measurements, printed and saved as they are made."""

import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import machine
from benchmarks.results.measurement import Measurement, Unit
from benchmarks.results.report import report
from benchmarks.results.results import Results
from benchmarks.results.tables import one_line


class Recorder:
    """Prints to standard error while the run lasts, and the report at its end."""

    def __init__(
        self, benchmark: str, setting: str, path: Path | None, device: str = "cpu"
    ) -> None:
        """A path gets the results file, written again with each measurement."""
        self.results = Results(
            benchmark,
            setting,
            machine.describe(device),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join(sys.argv),
        )
        self._path = path
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """Prints a line with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        print(f"{minutes:3}:{seconds:02}  {text}", file=sys.stderr, flush=True)

    def add(self, measurements: Iterable[Measurement]) -> None:
        """Keeps what was measured."""
        for measurement in measurements:
            self.results.measurements.append(measurement)
            self.say(one_line(measurement))
        if self._path is not None:
            self.results.save(self._path)

    def add_values(
        self, case: str, unit: Unit, values: Sequence[float], engine: str = "folovllm"
    ) -> None:
        """Keeps one measurement of ours."""
        self.add([Measurement(case, engine, unit, tuple(values))])

    def finish(self) -> None:
        """Prints the report."""
        print(f"\n{report([self.results])}")
