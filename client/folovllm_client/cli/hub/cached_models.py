"""The models in the hub's cache: their sizes, whether they can be served, their removal.

The cache has a folder a model, `models--OWNER--NAME`, with all its files in `blobs` and links to
them in `snapshots/COMMIT`; `refs/main` names the commit. Other programs share it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from folovllm.errors import ConfigError
from folovllm.model_files import check_model_folder
from folovllm.model_files.hub import hub_cache

_PREFIX = "models--"


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model that was fetched, perhaps not completely."""

    model_id: str
    size: int
    """Of all its files on disk, in bytes."""
    obstacle: str
    """Why it cannot be served; empty if it can."""


def cached_models() -> list[CachedModel]:
    """All models in the cache, by their names. Raises ConfigError."""
    folders = ((model, model_folder(model)) for model in model_ids())
    return [CachedModel(model, folder_size(path), _obstacle(path)) for model, path in folders]


def model_ids() -> list[str]:
    """The hub ids of all models in the cache, complete or not. Raises ConfigError."""
    names = sorted(path.name for path in hub_cache().glob(f"{_PREFIX}*") if path.is_dir())
    return [name.removeprefix(_PREFIX).replace("--", "/", 1) for name in names]


def model_folder(model: str) -> Path:
    """The folder of a model in the cache; it need not exist. Raises ConfigError."""
    return hub_cache() / f"{_PREFIX}{model.replace('/', '--')}"


def remove_model(model: str) -> int:
    """Deletes a model from the cache. Returns the bytes that are free again. Raises ConfigError."""
    folder = model_folder(model)
    size = folder_size(folder)
    try:
        shutil.rmtree(folder)
        shutil.rmtree(folder.parent / ".locks" / folder.name, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"{model} cannot be removed: {error}") from None
    return size


def folder_size(folder: Path) -> int:
    """The bytes of all files below a folder, each once; a file that is just renamed may miss."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if not path.is_symlink() and path.is_file():
                total += path.stat().st_size
        except OSError:
            continue
    return total


def is_complete(model: str) -> bool:
    """Whether the cache has every file that the services need. Raises ConfigError."""
    return model_folder(model).is_dir() and not _missing(_snapshot(model_folder(model)))


def _obstacle(folder: Path) -> str:
    """Why the model of a folder of the cache cannot be served, in words."""
    from engine_service.models.decoder_config import DecoderConfig

    snapshot = _snapshot(folder)
    if (snapshot / "config.json").is_file():
        try:
            DecoderConfig.from_folder(snapshot)
        except ConfigError as error:
            return str(error)
    return _missing(snapshot)


def _missing(snapshot: Path) -> str:
    try:
        check_model_folder(snapshot)
    except ConfigError as error:
        return f"it is not complete: {str(error).removeprefix(f'{snapshot} ')}"
    return ""


def _snapshot(folder: Path) -> Path:
    """Where the newest files are that were fetched; there may be no such folder."""
    ref = folder / "refs" / "main"
    return folder / "snapshots" / (ref.read_text().strip() if ref.is_file() else "")
