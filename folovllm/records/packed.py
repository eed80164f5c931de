"""Lists of numbers as base64 text, which takes less than half the time of numbers in JSON.

While JSON is written, no other thread of the process runs.
"""

import binascii
import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import TypeVar

_NUM_BYTES = 4
# Ids that are converted at once: others of the process run in between.
_MAX_CONVERTED = 16_384

Numbers = TypeVar("Numbers", "array[int]", "array[float]")


def id_array(*lists: Sequence[int]) -> "array[int]":
    """Lists of token ids as one."""
    ids = array("I")
    for each in lists:
        for start in range(0, len(each), _MAX_CONVERTED):
            ids.extend(each[start : start + _MAX_CONVERTED])
    return ids


def id_bytes(token_ids: Sequence[int]) -> bytes:
    """Token ids, each as four bytes, the lowest first."""
    return _bytes(id_array(token_ids))


def pack_ids(token_ids: Sequence[int]) -> str:
    """The same as base64."""
    return b64encode(id_bytes(token_ids)).decode()


def pack_floats(values: Iterable[float]) -> str:
    """Numbers, each as a 32-bit float, the lowest byte first."""
    return b64encode(_bytes(array("f", values))).decode()


def unpack_ids(text: str) -> "array[int]":
    """What `pack_ids` has written. Raises ValueError."""
    return _unpack(text, array("I"))


def unpack_floats(text: str) -> "array[float]":
    """What `pack_floats` has written. Raises ValueError."""
    return _unpack(text, array("f"))


def _bytes(values: "array[int] | array[float]") -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _unpack(text: str, values: Numbers) -> Numbers:
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is no base64") from None
    if len(data) % _NUM_BYTES:
        raise ValueError(f"has {len(data)} bytes, no multiple of {_NUM_BYTES}")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values
