"""Rows of cells as a table, for a terminal or as Markdown."""

from collections.abc import Sequence

Row = Sequence[str]


def text_table(head: Row, rows: Sequence[Row], names: int) -> str:
    """For a terminal; the first `names` columns are words."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )


def markdown_table(head: Row, rows: Sequence[Row], names: int) -> str:
    """For a document; the first `names` columns are words."""
    rule = ["---" if place < names else "---:" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def share(value: float | None) -> str:
    """In percent; empty where there is none."""
    return "" if value is None else f"{value:.0%}"
