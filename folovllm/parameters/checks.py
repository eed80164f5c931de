"""Checks of the values in SamplingParams.

Each raises InvalidRequestError for `name`, the field's path below sampling_params.
"""

from collections.abc import Iterable

from folovllm.errors import InvalidRequestError

UINT32 = 2**32 - 1


def invalid(name: str, message: str) -> InvalidRequestError:
    """The error for an invalid value; `message` continues the sentence after the name."""
    return InvalidRequestError(f"sampling_params.{name}", f"{name} {message}")


def check_bool(name: str, value: object) -> None:
    """True or False, nothing that merely counts as one."""
    if not isinstance(value, bool):
        raise invalid(name, "must be true or false")


def check_float(name: str, value: object, low: float, high: float, closed: bool = True) -> None:
    """A number from low to high; low itself only if `closed`."""
    bounds = f"{low:g} and {high:g}" if closed else f"{low:g} (excluded) and {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(name, f"must be a number between {bounds}, got {value!r}")
    # Written so that NaN fails.
    if not (low <= value <= high) or (value == low and not closed):
        raise invalid(name, f"must be between {bounds}, got {value:g}")


def check_int(name: str, value: object, low: int, high: int, nullable: bool = False) -> None:
    """A whole number from low to high, both included; None only if `nullable`."""
    if value is None and nullable:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(name, f"must be a whole number, got {value!r}")
    if value < low and high >= UINT32:  # only the width of its field bounds it
        raise invalid(name, f"must be at least {low}, got {value}")
    if not low <= value <= high:
        raise invalid(name, f"must be between {low} and {high}, got {value}")


def check_strings(name: str, strings: tuple[str, ...], max_count: int, max_bytes: int) -> None:
    """At most max_count strings of at most max_bytes bytes of UTF-8 each, none empty."""
    if len(strings) > max_count:
        raise invalid(name, f"may hold at most {max_count} strings, got {len(strings)}")
    for string in strings:
        if not isinstance(string, str) or not string:
            raise invalid(name, f"must hold strings that are not empty, got {string!r}")
        if len(string.encode(errors="replace")) > max_bytes:
            raise invalid(name, f"may hold strings of at most {max_bytes} bytes")


def check_ids(name: str, ids: Iterable[int], max_count: int) -> None:
    """At most max_count ids of 32 bits; whether the model has them is checked by the engine."""
    ids = tuple(ids)
    if len(ids) > max_count:
        raise invalid(name, f"may hold at most {max_count} token ids, got {len(ids)}")
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise invalid(name, f"must hold token ids, got {token_id!r}")
        if not 0 <= token_id <= UINT32:
            raise invalid(name, f"must hold token ids that are not negative, got {token_id}")


def check_sequences(name: str, sequences: tuple[tuple[int, ...], ...], max_count: int) -> None:
    """At most max_count sequences of 1 to max_count ids each."""
    if len(sequences) > max_count:
        raise invalid(name, f"may hold at most {max_count} sequences, got {len(sequences)}")
    for ids in sequences:
        if not ids:
            raise invalid(name, "must hold sequences that are not empty")
        check_ids(name, ids, max_count)
