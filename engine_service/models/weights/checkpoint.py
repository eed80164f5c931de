"""Checkpoint: a folder's safetensors files, single or sharded, as tensors by name.

Files are memory-mapped; a tensor's values are read when they are used. Names and shapes can be
checked against the files' headers before any weight is read.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine_service.models.layer_plan import Weight
from folovllm.errors import ConfigError
from folovllm.model_files import WEIGHT_INDEX, weight_files

_STORED_DTYPES = ("F32", "BF16", "F16")


class Checkpoint:
    """Open while in its context."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError if a file is missing or broken."""
        self.folder = folder
        with ExitStack() as stack:
            self._paths = weight_files(folder)
            self._files = [_open(path, stack) for path in self._paths]
            self._homes = {
                name: number
                for number, file in enumerate(self._files)
                for name in file.keys()  # noqa: SIM118 - no mapping
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
            header = self._files[self._homes[name]].get_slice(name)
            if header.get_shape() != list(shape):
                raise ConfigError(
                    f"{self.folder}: tensor {name} has shape {header.get_shape()}, "
                    f"config.json says {list(shape)}"
                )
            if header.get_dtype() not in _STORED_DTYPES:
                raise ConfigError(
                    f"{self.folder}: tensor {name} is stored as {header.get_dtype()}; "
                    f"supported are {', '.join(_STORED_DTYPES)}"
                )
        for name in sorted(unused):
            # Older checkpoints store the rotary frequencies, some a copy of tied embeddings.
            if not (name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight"):
                raise ConfigError(
                    f"{self.folder} has a tensor {name} that its config.json does not use"
                )

    def read(self, name: str) -> Tensor:
        """A tensor, in the type it is stored in; a view of its file."""
        tensor: Tensor = self._files[self._homes[name]].get_tensor(name)
        return tensor

    def read_anew(self, name: str) -> Tensor:
        """The same in a new mapping, without the pages that the first one has already read, which
        count as the process's memory."""
        with safe_open(self._paths[self._homes[name]], framework="pt", device="cpu") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def in_file_order(self, names: Iterable[str]) -> list[str]:
        """The names, those of a file together."""
        return sorted(names, key=lambda name: self._homes[name])


def _open(path: Path, stack: ExitStack) -> Any:
    if not path.is_file():
        raise ConfigError(f"{path.parent} has no {path.name}, which its {WEIGHT_INDEX} lists")
    try:
        return stack.enter_context(safe_open(path, framework="pt", device="cpu"))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} is not a safetensors file: {error}") from None
