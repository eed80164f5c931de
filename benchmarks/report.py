"""The results on a terminal: one table, a line for each engine in each case."""

from collections.abc import Iterator, Sequence

from benchmarks.measurement import Measurement, by_case

_HEAD = (
    f"{'case':<32}{'engine':<20}{'median':>10} {'':<6}"
    f"{'± %':>5}{'of bound':>10}{'first / this':>14}"
)


def table(measurements: Sequence[Measurement]) -> str:
    """Cases in order; the last column says how many times as fast each case's first engine is."""
    return "\n".join([_HEAD, *_lines(measurements)])


def _lines(measurements: Sequence[Measurement]) -> Iterator[str]:
    for case, group in by_case(measurements).items():
        for place, each in enumerate(group):
            bound = "" if each.of_bound is None else f"{each.of_bound:.0%}"
            ratio = f"{group[0].speed_over(each):.2f}" if place else ""
            yield (
                f"{'' if place else case:<32}{each.engine:<20}{_number(each.median):>10} "
                f"{each.unit:<6}{each.spread * 100:>5.0f}{bound:>10}{ratio:>14}"
            ).rstrip()


def _number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
