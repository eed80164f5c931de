"""The matrix as a table: a row for each fault, a column for each state and what stood beside."""

from collections.abc import Sequence

from chaos.checks.verdicts import Report
from chaos.matrix.scene import STATES

_BESIDE = (
    "freed",
    "new request",
    "engine after",
    "same session",
    "neighbours",
    "canary",
    "health",
    "at rest",
)
_MARKS = {"ok": "", "known": " known", "FAILED": " FAILED", "MENDED": " MENDED"}


def table(report: Report, faults: Sequence[str]) -> str:
    """Each cell says how often it held, of how many times, and its verdict if that is not ok."""
    columns = (*STATES, *_BESIDE)
    rows = [["", *columns]]
    for fault in faults:
        rows.append([fault, *(_cell(report, f"matrix: {fault}: {part}") for part in columns)])
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cell(report: Report, name: str) -> str:
    check = report.checks.get(name)
    if check is None:
        return "-"
    held = check.num_runs - check.num_failed
    return f"{held}/{check.num_runs}{_MARKS[report.verdict(name)]}"
