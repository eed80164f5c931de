"""The results of a run of `benchmarks.gpu` as tables.

python -m benchmarks.gpu.report FILE [--markdown]
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu.line import ROOFLINE, Ceilings, Line
from benchmarks.gpu.results import GpuResults
from benchmarks.gpu.targets import TARGETS
from benchmarks.harness.columns import Row, markdown_table, number, share, text_table
from folovllm.errors import FolovError

_HEAD = ("section", "line", "time", "tok/s", "MB", "of copy", "of matmul", "beside it")
_TARGET_HEAD = ("target", "unit", "reached", "at least", "aim", "")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser("benchmarks.gpu.report", description="Tables of a GPU run.")
    parser.add_argument("file", type=Path, metavar="FILE", help="JSON of benchmarks.gpu")
    parser.add_argument("--markdown", action="store_true", help="for a document")
    args = parser.parse_args(argv)
    try:
        results = GpuResults.load(args.file)
    except FolovError as error:
        sys.exit(f"error: {error}")
    print(report(results, markdown_table if args.markdown else text_table))


def report(
    results: GpuResults, write: Callable[[Row, Sequence[Row], int], str] = text_table
) -> str:
    """What was measured with, every line, the targets, and what there is to say of lines."""
    ceilings = Ceilings.of(results.lines)
    rows = [_row(line, ceilings) for line in results.lines if line.seconds is not None]
    targets = _target_rows(results.lines)
    parts = [results.head]
    if rows:
        parts.append(write(_HEAD, rows, 2))
    if targets:
        parts.append(write(_TARGET_HEAD, targets, 2))
    remarks = [_remark(line) for line in results.lines if line.note or line.error]
    return "\n\n".join([*parts, "\n".join(remarks)]).rstrip()


def one_line(line: Line, ceilings: Ceilings) -> str:
    """A line as soon as it is found."""
    if line.error:
        return _remark(line)
    return "  ".join(cell for cell in _row(line, ceilings) if cell)


def duration(seconds: float) -> str:
    """With the unit that gives a number from 1 to 1000."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds * 1e6)} us"


def _remark(line: Line) -> str:
    return f"{line.section}, {line.name}: {line.error or line.note}"


def _row(line: Line, ceilings: Ceilings) -> Row:
    beside = [f"{name} {number(value)}" for name, value in line.extras.items()]
    if line.section == ROOFLINE:
        beside.append(_ceiling(line))
    return (
        line.section,
        line.name,
        "" if line.seconds is None else duration(line.seconds),
        "" if line.rate is None else number(line.rate),
        number(line.num_bytes / 1e6) if line.num_bytes else "",
        share(ceilings.share_of_copy(line)),
        share(ceilings.share_of_matmul(line)),
        "; ".join(beside),
    )


def _ceiling(line: Line) -> str:
    ceilings = Ceilings.of([line])
    if ceilings.operations_per_s:
        return f"{number(ceilings.operations_per_s / 1e12)} TFLOP/s"
    return f"{number((ceilings.bytes_per_s or 0.0) / 1e9)} GB/s"


def _target_rows(lines: Sequence[Line]) -> list[Row]:
    """Of the targets that were measured."""
    rows: list[Row] = []
    for target in TARGETS:
        value = target.value(lines)
        if value is not None:
            cells = [number(each) for each in (value, target.least, target.aim)]
            rows.append((target.name, target.unit, *cells, target.verdict(value)))
    return rows


if __name__ == "__main__":
    main()
