"""Measurements as tables: everything, engines by cases, and the targets."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.model_shape import WEIGHT_FORMATS
from benchmarks.results.measurement import Measurement, by_case
from benchmarks.results.targets import best_peer, comparisons

Row = Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A head and rows of as many cells."""

    head: Row
    rows: Sequence[Row]
    num_words: int
    """How many columns, from the left, are words."""

    def text(self) -> str:
        """For a terminal."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column < self.num_words else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (self.head, *self.rows)
        )

    def markdown(self) -> str:
        """For a document."""
        rule = ["---" if column < self.num_words else "---:" for column in range(len(self.head))]
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.head, rule, *self.rows))


def details(measurements: Sequence[Measurement]) -> Table:
    """A row for each engine in each case, beside our engine in the same weight format."""
    head = ("case", "engine", "median", "unit", "± %", "of bound", "ours / this")
    rows = []
    for case, group in by_case(measurements).items():
        by_engine = {each.engine: each for each in group}
        for index, each in enumerate(group):
            ours = by_engine.get(str(each.name.ours))
            best = ours is not None and each is best_peer(ours, group)
            rows.append(
                (
                    "" if index else case,
                    each.engine + (" *" if best else ""),
                    number(each.median),
                    each.unit,
                    f"{each.spread * 100:.0f}",
                    "" if each.of_bound is None else f"{each.of_bound:.0%}",
                    f"{ours.speed_over(each):.2f}" if ours and ours is not each else "",
                )
            )
    return Table(head, rows, num_words=2)


def matrix(measurements: Sequence[Measurement]) -> Table:
    """A row for each engine, class after class, with its median and spread in each tok/s case."""
    rates = [each for each in measurements if each.unit == "tok/s"]
    cases = by_case(rates)
    # Sorting keeps the order within a class.
    engines = {each.engine: WEIGHT_FORMATS.index(each.name.weight_format) for each in rates}
    rows = [
        (engine, *(_cell(engine, group) for group in cases.values()))
        for engine in sorted(engines, key=engines.__getitem__)
    ]
    return Table(("tok/s", *cases), rows, num_words=1)


def targets(benchmark: str, measurements: Sequence[Measurement]) -> Table:
    """A row for each target for which both sides were measured."""
    head = ("case", "engine", "median", "beside", "median", "ratio", "at least", "aim")
    rows = [
        (
            target.case,
            target.engine,
            number(ours.median),
            rival.engine,
            number(rival.median),
            f"{ours.speed_over(rival):.2f}",
            *("" if goal is None else f"{goal:.2f}" for goal in (target.minimum, target.aim)),
        )
        for target, ours, rival in comparisons(benchmark, measurements)
    ]
    return Table(head, rows, num_words=2)


def one_line(measurement: Measurement) -> str:
    """A measurement as soon as it is made."""
    name = f"{measurement.case}, {measurement.engine}: "
    if not measurement.values:
        return f"{name}{measurement.note}"
    of_bound = "" if measurement.of_bound is None else f", {measurement.of_bound:.0%} of bound"
    spread = f" ± {measurement.spread:.0%}"
    note = f"; {measurement.note}" if measurement.note else ""
    return f"{name}{number(measurement.median)} {measurement.unit}{spread}{of_bound}{note}"


def number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cell(engine: str, group: Sequence[Measurement]) -> str:
    mine = next((each for each in group if each.engine == engine), None)
    return "" if mine is None else f"{number(mine.median)} ± {mine.spread:.0%}"
