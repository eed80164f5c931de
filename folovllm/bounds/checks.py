"""Checks of single values and lists, made of their bounds. Each raises ViolationError."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

from folovllm.bounds.field_bounds import FieldBounds, Range
from folovllm.bounds.violation import ViolationError

Check = Callable[[Any], None]


def value_check(bounds: FieldBounds) -> Check | None:
    """The check of one number, enum, string or bytes; None if all values pass."""
    if bounds.range is not None:
        return _range_check(bounds.range)
    if bounds.allowed is not None:
        return _enum_check(bounds.allowed)
    if bounds.max_bytes is not None or bounds.min_bytes:
        return _size_check(bounds.min_bytes, bounds.max_bytes)
    return None


def count_check(bounds: FieldBounds) -> Check | None:
    """The check of how many elements a list or map has; None if any number passes."""
    low, high = bounds.min_count, bounds.max_count
    if high is None:
        return None

    def check(values: Sized) -> None:
        if not low <= (count := len(values)) <= high:
            raise ViolationError(counted(low, high, count))

    return check


def counted(low: int, high: int, count: int) -> str:
    """What is wrong with a number of elements."""
    if not count:
        return "must not be empty"
    return f"may hold {f'{low} to' if low else 'at most'} {high} entries, got {count}"


def sized(min_bytes: int, max_bytes: int | None, string: str | bytes) -> str | None:
    """What is wrong with the size of a string in UTF-8, or of bytes; None if nothing."""
    if len(string) < min_bytes and (not string or num_bytes(string) < min_bytes):
        return "must not be empty" if min_bytes == 1 else f"must have at least {min_bytes} bytes"
    # A character has at least one byte, so the longest need not be encoded.
    if max_bytes is not None and (
        len(string) > max_bytes or (4 * len(string) > max_bytes and num_bytes(string) > max_bytes)
    ):
        return f"may have at most {max_bytes} bytes"
    return None


def num_bytes(string: str | bytes) -> int:
    """The bytes of a string in UTF-8."""
    if isinstance(string, bytes) or string.isascii():
        return len(string)
    return len(string.encode(errors="replace"))


def total_bytes_check(limit: int) -> Check:
    """The check of the bytes that all strings of a list have together."""

    def check(strings: Iterable[str]) -> None:
        if sum(map(num_bytes, strings)) > limit:
            raise ViolationError(f"may have at most {limit} bytes together")

    return check


def each_check(check: Check) -> Check:
    """The check of all elements of a list."""

    def check_each(values: Sequence[Any]) -> None:
        index = 0
        try:
            for value in values:
                check(value)
                index += 1
        except ViolationError as error:
            raise error.under(f"[{index}]") from None

    return check_each


def each_value_check(check: Check) -> Check:
    """The check of all values of a map."""

    def check_each(values: Any) -> None:
        for key, value in values.items():
            try:
                check(value)
            except ViolationError as error:
                raise error.under(f"[{key}]") from None

    return check_each


def _range_check(bounds: Range) -> Check:
    low, high = bounds.low, bounds.high

    # Written so that NaN fails.
    def check(value: float) -> None:
        if not low <= value <= high:
            raise ViolationError(bounds.problem(value))

    def check_open(value: float) -> None:
        if not low < value <= high:
            raise ViolationError(bounds.problem(value))

    return check_open if bounds.low_excluded else check


def _enum_check(allowed: Mapping[int, str]) -> Check:
    def check(value: int) -> None:
        if value not in allowed:
            raise ViolationError(f"must be one of {', '.join(allowed.values())}, got {value}")

    return check


def _size_check(min_bytes: int, max_bytes: int | None) -> Check:
    surely = (max_bytes or 0) // 4  # characters that are within it in any script

    def check(string: str | bytes) -> None:
        if not min_bytes <= len(string) <= surely and (
            problem := sized(min_bytes, max_bytes, string)
        ):
            raise ViolationError(problem)

    return check
