"""The results on a terminal: one table, a line for each engine in each case."""

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.measurement import Measurement, by_case


def table(measurements: Sequence[Measurement], ours: Sequence[str]) -> str:
    """Cases in order; the last columns say how many times as fast each of `ours` is."""
    head = (
        f"{'case':<32}{'engine':<20}{'median':>10} {'':<6}{'± %':>5}{'of bound':>10}"
        f"{_columns(f'{name} / this' for name in ours)}"
    )
    return "\n".join([head, *_lines(measurements, ours)])


def _lines(measurements: Sequence[Measurement], ours: Sequence[str]) -> Iterator[str]:
    for case, group in by_case(measurements).items():
        by_engine = {each.engine: each for each in group}
        for place, each in enumerate(group):
            bound = "" if each.of_bound is None else f"{each.of_bound:.0%}"
            rivals = [by_engine.get(name) for name in ours]
            ratios = _columns(
                f"{rival.speed_over(each):.2f}" if rival and rival is not each else ""
                for rival in rivals
            )
            yield (
                f"{'' if place else case:<32}{each.engine:<20}{_number(each.median):>10} "
                f"{each.unit:<6}{each.spread * 100:>5.0f}{bound:>10}{ratios}"
            ).rstrip()


def _columns(texts: Iterable[str]) -> str:
    return "".join(f"{text:>22}" for text in texts)


def _number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
