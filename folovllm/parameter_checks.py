"""What values SamplingParams may hold.

Every check raises InvalidRequestError for `name`, which is the field's path below sampling_params.
"""

from collections.abc import Iterable

from folovllm.errors import InvalidRequestError

UINT32 = 2**32 - 1


def invalid(name: str, message: str) -> InvalidRequestError:
    """The error for a value that cannot be taken; `message` goes on after the name."""
    return InvalidRequestError(f"sampling_params.{name}", f"{name} {message}")


def check_float(name: str, value: object, low: float, high: float, closed: bool) -> None:
    """A number from low to high; low itself only where `closed`."""
    bounds = f"{'[' if closed else '('}{low:g}, {high:g}]"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(name, f"must be a number in {bounds}, got {value!r}")
    # Written so that NaN fails.
    if not (low <= value <= high) or (value == low and not closed):
        raise invalid(name, f"must be in {bounds}, got {value:g}")


def check_int(name: str, value: object, low: int, high: int, nullable: bool) -> None:
    """A whole number from low to high, both included; None only where `nullable`."""
    if value is None and nullable:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(name, f"must be a whole number, got {value!r}")
    if not low <= value <= high:
        raise invalid(name, f"must be between {low} and {high}, got {value}")


def check_strings(name: str, strings: tuple[str, ...], most: int, most_bytes: int) -> None:
    """At most so many strings of at most so many bytes of UTF-8, none of them empty."""
    if len(strings) > most:
        raise invalid(name, f"may hold at most {most} strings, got {len(strings)}")
    for string in strings:
        if not isinstance(string, str) or not string:
            raise invalid(name, f"must hold strings that are not empty, got {string!r}")
        if len(string.encode(errors="replace")) > most_bytes:
            raise invalid(name, f"may hold strings of at most {most_bytes} bytes")


def check_ids(name: str, ids: Iterable[int], most: int) -> None:
    """At most so many ids that fit the contract; whether the model has them is for the engine."""
    ids = tuple(ids)
    if len(ids) > most:
        raise invalid(name, f"may hold at most {most} token ids, got {len(ids)}")
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise invalid(name, f"must hold token ids, got {token_id!r}")
        if not 0 <= token_id <= UINT32:
            raise invalid(name, f"must hold token ids that are not negative, got {token_id}")


def check_sequences(name: str, sequences: tuple[tuple[int, ...], ...], most: int) -> None:
    """At most so many sequences, and in each from one to as many ids."""
    if len(sequences) > most:
        raise invalid(name, f"may hold at most {most} sequences, got {len(sequences)}")
    for ids in sequences:
        if not ids:
            raise invalid(name, "must hold sequences that are not empty")
        check_ids(name, ids, most)
