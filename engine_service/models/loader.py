"""Fills a Decoder from a folder's safetensors files, single or sharded.

Files are memory-mapped and copied straight into the parameters, fused ones by slices. Names and
shapes are checked against the files' headers before any weight is read. On a CPU the projections
are then packed, if that is faster, and rows of the embedding are read from its file as they are
needed: a tied one is not held twice.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm import tqdm

from engine_service.layers.attention import choose_backend
from engine_service.layers.deterministic_attention import DeterministicAttention
from engine_service.layers.packing import choose_packing
from engine_service.layers.row_tiles import TILED_OPERATORS
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.qwen3 import Decoder
from folovllm.errors import ConfigError
from folovllm.model_files import read_json

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_EMBEDDING = "model.embed_tokens.weight"
_STORED_DTYPES = ("F32", "BF16", "F16")


def make_decoder(
    config: DecoderConfig, dtype: torch.dtype, device: torch.device, deterministic: bool
) -> Decoder:
    """A decoder without weights.

    A deterministic one gives a token's row the same bits whatever is computed beside it; else it is
    the fastest. Raises ConfigError where the device has no backend.
    """
    if deterministic:
        return Decoder(config, DeterministicAttention(), dtype, device, TILED_OPERATORS)
    return Decoder(config, choose_backend(device), dtype, device)


def load_model(
    folder: Path,
    config: DecoderConfig,
    dtype: torch.dtype,
    device: torch.device,
    show_progress: bool,
    deterministic: bool = False,
    quantization: str = "none",
) -> Decoder:
    """A decoder with the weights of a folder, converted to dtype, on the device.

    They are quantized as ModelConfig says; a deterministic decoder's are not.

    Raises ConfigError, naming the file or the tensor, where weights are missing, broken or do not
    fit the config. Progress goes to stderr, if that is a terminal.
    """
    model = make_decoder(config, dtype, device, deterministic)
    packing = None if deterministic else choose_packing(dtype, device, quantization)
    with ExitStack() as stack:
        paths = _weight_files(folder)
        files = [_open(path, stack) for path in paths]
        homes = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        _check(folder, model, homes)
        model.allocate()
        targets = dict(model.weights())
        if packing is not None:
            embedding_path = paths[files.index(homes[_EMBEDDING])]
            _map_embedding(model, embedding_path)
            del targets[_EMBEDDING]
        progress = tqdm(
            sorted(targets, key=lambda name: files.index(homes[name])),
            desc="Loading weights",
            unit=" tensors",
            file=sys.stderr,
            disable=not (show_progress and sys.stderr.isatty()),
        )
        for name in progress:
            targets[name].copy_(homes[name].get_tensor(name))
    if packing is not None:
        del targets  # which would keep what is packed
        model.pack(packing)
        # Anew, since the pages that packing has read count as the process's memory.
        _map_embedding(model, embedding_path)
    return model


def _map_embedding(model: Decoder, path: Path) -> None:
    """Makes the embedding a view of its file, in the type that the file has."""
    with safe_open(path, framework="pt", device="cpu") as file:
        model.embed_tokens = nn.Parameter(file.get_tensor(_EMBEDDING), requires_grad=False)


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, from the index where there is one."""
    if (folder / _INDEX).is_file():
        weight_map = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ConfigError(f"{folder / _INDEX} has no weight_map")
        return [folder / name for name in sorted(set(map(str, weight_map.values())))]
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    raise ConfigError(
        f"{folder} has no weights: it needs {_SINGLE} or {_INDEX} (other formats are not read)"
    )


def _open(path: Path, stack: ExitStack) -> Any:
    """An open safetensors file; it is mapped, not read."""
    if not path.is_file():
        raise ConfigError(f"{path.parent} has no {path.name}, which its {_INDEX} lists")
    try:
        return stack.enter_context(safe_open(path, framework="pt", device="cpu"))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} is not a safetensors file: {error}") from None


def _check(folder: Path, model: Decoder, homes: dict[str, Any]) -> None:
    """Compares the files' headers with what the model wants."""
    wanted = {name: list(target.shape) for name, target in model.weights()}
    for name, shape in wanted.items():
        if name not in homes:
            raise ConfigError(f"{folder} has no tensor {name}; its weights are not complete")
        header = homes[name].get_slice(name)
        if header.get_shape() != shape:
            raise ConfigError(
                f"{folder}: tensor {name} has shape {header.get_shape()}, config.json says {shape}"
            )
        if header.get_dtype() not in _STORED_DTYPES:
            raise ConfigError(
                f"{folder}: tensor {name} is stored as {header.get_dtype()}; "
                f"supported are {', '.join(_STORED_DTYPES)}"
            )
    for name in sorted(homes.keys() - wanted.keys()):
        # Older checkpoints store the rotary frequencies, some a copy of tied embeddings.
        if not (name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight"):
            raise ConfigError(f"{folder} has a tensor {name} that its config.json has no use for")
