"""SafetensorsFile: a file's tensors by name, read into memory.

Not mapped: a file that is cut short or replaced while a mapping is read would end the process
without a word, and in place of it here a read that comes short is an error.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from folovllm.errors import ConfigError

_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000
# Linux reads no more at once.
_MAX_READ = 1 << 30
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What a header says of a tensor."""

    dtype: str
    """Such as "BF16"."""
    shape: tuple[int, ...]
    start: int
    """Where it begins in the file."""
    num_bytes: int


class SafetensorsFile:
    """Open while in its context."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if it is not whole, or cannot be read."""
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        try:
            self.tensors = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """A tensor of F32, BF16 or F16, or some of its rows. Raises ConfigError."""
        stored = self.tensors[name]
        dtype, shape = _DTYPES[stored.dtype], list(stored.shape)
        start, size = stored.start, stored.num_bytes
        if rows is not None:
            first, last, _ = rows.indices(shape[0])
            row_bytes = size // shape[0]
            shape[0] = max(0, last - first)
            start, size = start + first * row_bytes, shape[0] * row_bytes
        data = torch.empty(size, dtype=torch.uint8)
        self._fill(data, start, name)
        return data.view(dtype).view(shape)

    def _fill(self, data: Tensor, start: int, name: str) -> None:
        """Reads the bytes from `start` on, of the tensor of this name."""
        memory, done = data.numpy().data, 0
        while done < len(memory):
            try:
                count = os.preadv(
                    self._file.fileno(), [memory[done : done + _MAX_READ]], start + done
                )
            except OSError as error:
                raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from None
            if not count:
                raise ConfigError(f"{self.path} was cut short: it ends within {name}")
            done += count

    def _read_header(self) -> dict[str, StoredTensor]:
        size = os.fstat(self._file.fileno()).st_size
        length = int.from_bytes(self._file.read(_LENGTH_BYTES), "little")
        begin = _LENGTH_BYTES + length
        if size < _LENGTH_BYTES or length > min(_MAX_HEADER, size - _LENGTH_BYTES):
            raise self._broken("its header has no valid length")
        try:
            header = json.loads(os.pread(self._file.fileno(), length, _LENGTH_BYTES))
            header.pop("__metadata__", None)
            tensors = {name: _stored(entry, begin) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._broken("its header cannot be read") from None
        end = max((each.start + each.num_bytes for each in tensors.values()), default=begin)
        if end > size:
            raise ConfigError(f"{self.path} is cut short: {end - size} bytes of {end} are missing")
        return tensors

    def _broken(self, reason: str) -> ConfigError:
        return ConfigError(f"{self.path} is not a safetensors file: {reason}")


def _stored(entry: dict[str, object], begin: int) -> StoredTensor:
    """An entry of the header, checked. Raises ValueError."""
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise ValueError
    start, end = (int(offset) for offset in offsets)
    sizes = tuple(int(size) for size in shape)
    if start < 0 or end < start or any(size < 0 for size in sizes):
        raise ValueError
    known = _DTYPES.get(str(dtype))
    if known is not None and math.prod(sizes) * known.itemsize != end - start:
        raise ValueError
    return StoredTensor(str(dtype), sizes, begin + start, end - start)
