"""Checkpoints of the embedded model with bad weights, all with its tokenizer."""

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from folovllm.model_files import DEMO_MODEL

Tensors = dict[str, Tensor]
POISON = 1999
"""The token whose embedding is NaN in `one_token_nan`."""


def copy_of_model(folder: Path) -> Path:
    """The embedded model's files, to be changed."""
    source = DEMO_MODEL
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return folder


def one_token_nan(folder: Path) -> Path:
    """Only prompts that hold POISON get NaN: the head has weights of its own, which are sound."""

    def change(tensors: Tensors) -> None:
        embedding = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = embedding.clone()
        embedding[POISON] = float("nan")

    return _changed(folder, change, '"tie_word_embeddings": true', '"tie_word_embeddings": false')


def all_nan(folder: Path) -> Path:
    """Every prompt gets NaN, from a row of one projection."""

    def change(tensors: Tensors) -> None:
        tensors["model.norm.weight"][:] = float("nan")

    return _changed(folder, change)


def other_weights(folder: Path) -> Path:
    """Sound weights that give other answers."""

    def change(tensors: Tensors) -> None:
        tensors["model.layers.0.mlp.down_proj.weight"] *= -1

    return _changed(folder, change)


def _changed(folder: Path, change: Callable[[Tensors], None], old: str = "", new: str = "") -> Path:
    copy_of_model(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    path.unlink()  # it may be read-only
    save_file(tensors, path, {"format": "pt"})
    if old:
        config = folder / "config.json"
        text = config.read_text().replace(old, new)
        config.unlink()
        config.write_text(text)
    return folder
