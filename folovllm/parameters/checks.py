"""Checks of the values in SamplingParams.

Each raises InvalidRequestError for `name`, the field's path below sampling_params. The bounds are
the contract's, so that what is sent and what stays in the process is told the same.
"""

from collections.abc import Collection, Sequence, Sized

from folovllm.bounds.checks import counted, num_bytes, sized
from folovllm.bounds.field_bounds import FieldBounds, Range
from folovllm.errors import InvalidRequestError

UINT32 = 2**32 - 1
ANY_UINT32 = Range(0, UINT32, is_width=True)
ANY_UINT64 = Range(0, 2**64 - 1, is_width=True)


def invalid(name: str, message: str) -> InvalidRequestError:
    """The error for an invalid value; `message` continues the sentence after the name."""
    return InvalidRequestError(f"sampling_params.{name}", f"{name} {message}")


def check_bool(name: str, value: object) -> None:
    """True or False, nothing that merely counts as one."""
    if not isinstance(value, bool):
        raise invalid(name, "must be true or false")


def check_float(name: str, value: object, bounds: Range) -> None:
    """A number in the range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(name, f"must be a number {bounds}, got {value!r:.40}")
    if value not in bounds:
        raise invalid(name, bounds.problem(value))


def check_int(name: str, value: object, bounds: Range, nullable: bool = False) -> None:
    """A whole number in the range; None only if `nullable`."""
    if value is None and nullable:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(name, f"must be a whole number, got {value!r:.40}")
    if value not in bounds:
        raise invalid(name, bounds.problem(value))


def check_count(name: str, values: Sized, bounds: FieldBounds) -> None:
    """As many elements as the bounds allow."""
    assert bounds.max_count is not None
    if not bounds.min_count <= len(values) <= bounds.max_count:
        raise invalid(name, counted(bounds.min_count, bounds.max_count, len(values)))


def check_strings(name: str, strings: Sequence[str], bounds: FieldBounds) -> None:
    """Strings whose number and bytes of UTF-8, of each and together, are within the bounds."""
    check_count(name, strings, bounds)
    assert bounds.each is not None
    for index, string in enumerate(strings):
        if not isinstance(string, str):
            raise invalid(name, f"must hold strings, got {string!r:.40}")
        problem = sized(bounds.each.min_bytes, bounds.each.max_bytes, string)
        if problem is not None:
            raise invalid(f"{name}[{index}]", problem)
    total = bounds.max_total_bytes
    if total is not None and sum(map(num_bytes, strings)) > total:
        raise invalid(name, f"may have at most {total} bytes together")


def check_ids(name: str, ids: Collection[int], bounds: FieldBounds) -> None:
    """Ids of 32 bits, as many as the bounds allow; whether the model has them the engine checks."""
    check_count(name, ids, bounds)
    _check_each_id(name, ids)


def check_sequences(name: str, sequences: Sequence[Sequence[int]], bounds: FieldBounds) -> None:
    """Sequences of ids whose number and lengths, of each and together, are within the bounds."""
    check_count(name, sequences, bounds)
    assert bounds.max_ids is not None and bounds.max_elements is not None
    for index, ids in enumerate(sequences):
        if not bounds.min_ids <= len(ids) <= bounds.max_ids:
            problem = counted(bounds.min_ids, bounds.max_ids, len(ids))
            raise invalid(f"{name}[{index}]", problem)
    if sum(map(len, sequences)) > bounds.max_elements:
        raise invalid(name, f"may hold at most {bounds.max_elements} token ids together")
    for ids in sequences:
        _check_each_id(name, ids)


def _check_each_id(name: str, ids: Collection[int]) -> None:
    if set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) <= UINT32:
        return  # the same as below, for many at once
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise invalid(name, f"must hold token ids, got {token_id!r:.40}")
        if token_id not in ANY_UINT32:
            raise invalid(name, f"must hold token ids that are not negative, got {token_id}")
