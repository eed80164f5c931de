"""FieldBounds: what the contract lets a field hold, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high, both included; low is not if `low_excluded`. NaN is in no range."""

    low: float
    high: float
    low_excluded: bool = False
    is_width: bool = False
    """Whether `high` is only the greatest number that the field's type has."""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.low_excluded and value == self.low)

    def __str__(self) -> str:
        low = f"{_number(self.low)}{' (excluded)' if self.low_excluded else ''}"
        return f"between {low} and {_number(self.high)}"

    def problem(self, value: float) -> str:
        """What is wrong with a value that is not in the range."""
        if self.is_width and value < self.low:
            return f"must be at least {_number(self.low)}, got {_number(value)}"
        return f"must be {self}, got {_number(value)}"


@dataclass(frozen=True, slots=True)
class FieldBounds:
    """What a field may hold. None: not bounded in this way.

    Counts are those of a repeated field's elements or of a map's entries; what bounds each of them,
    or each value of a map, is `each`.
    """

    range: Range | None = None
    min_bytes: int = 0
    max_bytes: int | None = None
    """Of a string in UTF-8, or of bytes."""
    allowed: Mapping[int, str] | None = None
    """An enum's values, with their names."""
    min_count: int = 0
    max_count: int | None = None
    each: "FieldBounds | None" = None
    max_total_bytes: int | None = None
    """Of all strings of a repeated field together."""
    min_ids: int = 0
    max_ids: int | None = None
    """Of each TokenIds in the field."""
    max_elements: int | None = None
    """Of all lists and maps in the field's messages together, at any depth."""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
