"""Where caches and the hub's models lie, how large they are, and how the caches are cleared."""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from folovllm.errors import ConfigError
from folovllm.installation.cache_folder import cache_folder
from folovllm.model_files.hub import hub_cache
from folovllm_client.cli.doctor.findings import Finding
from folovllm_client.cli.hub.cached_models import folder_size
from folovllm_client.cli.hub.sizes import size_text

_COMPILED = "compiled"
_USES = {
    "kernels": _COMPILED,
    "gpu": "tuning",
    "benchmarks": "benchmarks",
}
"""By folder of ours, what it holds."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Files and folders that are kept, below `place`, with all their bytes."""

    name: str
    place: Path
    paths: tuple[Path, ...]
    num_bytes: int


def find_caches() -> list[Cache]:
    """Those with anything in them that FolovLLM, or Triton for it, makes again when needed.

    Triton's is shared with other programs that use it.
    """
    own, triton = _contents(cache_folder()), _triton_folder()
    found = [_cache(_USES.get(path.name, path.name), path, [path]) for path in own]
    if libraries := _libraries_beside_sources():
        found.append(_cache(_COMPILED, libraries[0].parent, libraries))
    found.append(_cache("Triton", triton, [*filter(_is_tritons, _contents(triton))]))
    return [cache for cache in found if cache.num_bytes]


def check_caches() -> list[Finding]:
    """Where each lies and how large it is; the hub's models too, which are no cache of ours."""
    caches = find_caches()
    found = [Finding(each.name, "info", f"{readable(each)} in {each.place}") for each in caches]
    models = _models()
    if models is not None and models.num_bytes:
        text = f"{readable(models)} in {models.place}"
        found.append(Finding(models.name, "info", text))
    return found or [Finding("caches", "info", "empty")]


def clear(caches: Iterable[Cache]) -> None:
    """Deletes them. Raises OSError."""
    for cache in caches:
        for path in cache.paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def readable(*caches: Cache) -> str:
    """Their size together."""
    return size_text(sum(cache.num_bytes for cache in caches))


def _cache(name: str, place: Path, paths: Sequence[Path]) -> Cache:
    return Cache(name, place, tuple(paths), sum(map(_num_bytes, paths)))


def _num_bytes(path: Path) -> int:
    """Of a file, or of all files below a folder; of links nothing."""
    return path.lstat().st_size if path.is_file() else folder_size(path)


def _contents(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _libraries_beside_sources() -> list[Path]:
    if find_spec("engine_service") is None:
        return []
    from engine_service.kernels.cpu.build import SOURCES, compiled_libraries

    return [path for path in compiled_libraries() if path.parent == SOURCES]


def _triton_folder() -> Path:
    """As Triton finds it."""
    if folder := os.environ.get("TRITON_CACHE_DIR"):
        return Path(folder)
    return Path(os.environ.get("TRITON_HOME") or Path.home()) / ".triton" / "cache"


def _is_tritons(path: Path) -> bool:
    """Whether Triton named it: anything else in a folder that the environment names is not ours."""
    return re.fullmatch("[A-Z2-7]{52}", path.name) is not None


def _models() -> Cache | None:
    """The hub's, if its library is installed."""
    try:
        folder = hub_cache()
    except ConfigError:
        return None
    return _cache("models", folder, [folder])
