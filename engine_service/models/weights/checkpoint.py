"""Checkpoint: a folder's safetensors files, single or sharded, as tensors by name.

A tensor is read into memory when it is asked for. Names and shapes can be checked against the
files' headers before any weight is read.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from torch import Tensor

from engine_service.models.layer_plan import Weight
from engine_service.models.weights.safetensors_file import SafetensorsFile
from folovllm.errors import ConfigError
from folovllm.model_files import WEIGHT_INDEX, weight_files

_STORED_DTYPES = ("F32", "BF16", "F16")


class Checkpoint:
    """Open while in its context."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError if a file is missing or broken."""
        self.folder = folder
        with ExitStack() as stack:
            self._files = [_open(path, stack) for path in weight_files(folder)]
            self._homes = {
                name: number for number, file in enumerate(self._files) for name in file.tensors
            }
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self, weights: Iterable[Weight]) -> None:
        """Compares names and shapes with those expected. Raises ConfigError, naming the tensor."""
        unused = set(self._homes)
        for name, shape, _ in weights:
            unused.discard(name)
            if name not in self._homes:
                raise ConfigError(
                    f"{self.folder} has no tensor {name}; its weights are not complete"
                )
            stored = self._files[self._homes[name]].tensors[name]
            if stored.shape != tuple(shape):
                raise ConfigError(
                    f"{self.folder}: tensor {name} has shape {list(stored.shape)}, "
                    f"config.json says {list(shape)}"
                )
            if stored.dtype not in _STORED_DTYPES:
                raise ConfigError(
                    f"{self.folder}: tensor {name} is stored as {stored.dtype}; "
                    f"supported are {', '.join(_STORED_DTYPES)}"
                )
        for name in sorted(unused):
            # Older checkpoints store the rotary frequencies, some a copy of tied embeddings.
            if not (name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight"):
                raise ConfigError(
                    f"{self.folder} has a tensor {name} that its config.json does not use"
                )

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """A tensor, or some of its rows, in the type it is stored in. Raises ConfigError."""
        return self._files[self._homes[name]].read(name, rows)

    def in_file_order(self, names: Iterable[str]) -> list[str]:
        """The names, those of a file together."""
        return sorted(names, key=lambda name: self._homes[name])


def _open(path: Path, stack: ExitStack) -> SafetensorsFile:
    if not path.is_file():
        raise ConfigError(f"{path.parent} has no {path.name}, which its {WEIGHT_INDEX} lists")
    return stack.enter_context(SafetensorsFile(path))
