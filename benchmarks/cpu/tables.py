"""The results as rows of cells: everything, engines by cases, and the targets."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cpu.measurement import Measurement, by_case
from benchmarks.cpu.targets import Comparison, best_peer, comparisons
from benchmarks.harness.columns import Row, number, share
from benchmarks.harness.weight_formats import WEIGHT_FORMATS


@dataclass(frozen=True, slots=True)
class Table:
    """A head and rows of as many cells."""

    head: Row
    rows: Sequence[Row]
    names: int
    """How many columns, from the left, are words."""


def details(measurements: Sequence[Measurement]) -> Table:
    """A row for each engine in each case, beside our engine in the same weight format."""
    head = ("case", "engine", "median", "unit", "± %", "of bound", "ours / this")
    rows = []
    for case, group in by_case(measurements).items():
        by_engine = {each.engine: each for each in group}
        for place, each in enumerate(group):
            ours = by_engine.get(str(each.name.ours))
            rows.append(
                (
                    "" if place else case,
                    each.engine + (" *" if _is_best(each, ours, group) else ""),
                    number(each.median),
                    each.unit,
                    f"{each.spread * 100:.0f}",
                    share(each.of_bound),
                    f"{ours.speed_over(each):.2f}" if ours and ours is not each else "",
                )
            )
    return Table(head, rows, names=2)


def targets(measurements: Sequence[Measurement]) -> Table:
    """A row for each target for which both sides were measured."""
    head = ("case", "engine", "median", "beside", "median", "ratio", "at least", "aim")
    rows = [_target_row(each) for each in comparisons(measurements)]
    return Table(head, rows, names=2)


def matrix(measurements: Sequence[Measurement]) -> Table:
    """A row for each engine, class after class, with its median and spread in each tok/s case."""
    rates = [each for each in measurements if each.unit == "tok/s"]
    cases = by_case(rates)
    # Sorting keeps the order within a class.
    engines = {each.engine: WEIGHT_FORMATS.index(each.name.weight_format) for each in rates}
    rows = []
    for engine in sorted(engines, key=engines.__getitem__):
        cells = (_cell(engine, group) for group in cases.values())
        rows.append((engine, *cells))
    return Table(("tok/s", *cases), rows, names=1)


def _target_row(comparison: Comparison) -> Row:
    target, ours, rival = comparison.target, comparison.ours, comparison.rival
    return (
        target.case,
        target.engine,
        number(ours.median),
        rival.engine,
        number(rival.median),
        f"{comparison.ratio:.2f}",
        *("" if goal is None else f"{goal:.2f}" for goal in (target.least, target.aim)),
    )


def _is_best(each: Measurement, ours: Measurement | None, group: Sequence[Measurement]) -> bool:
    return ours is not None and each is best_peer(ours, group)


def _cell(engine: str, group: Sequence[Measurement]) -> str:
    mine = next((each for each in group if each.engine == engine), None)
    return "" if mine is None else f"{number(mine.median)} ± {mine.spread:.0%}"
