"""The command that installs something, as it can be typed on this machine.

It depends on where FolovLLM came from (a clone, a wheel, a repository, an index), on which pip
belongs to this Python, and on whether there is a GPU, since PyPI's torch for Linux carries
gigabytes of CUDA.
"""

import json
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from folovllm.installation.nvidia import has_nvidia_gpu
from folovllm.installation.typed import typed_path, typed_program

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
"""Has torch's builds for CPUs. pip prefers 2.13.0+cpu, from there, to PyPI's 2.13.0."""

CLONE = Path(__file__).resolve().parents[2]
"""The folder of the packages; in a clone it holds pyproject.toml."""

_NAME = "folovllm"


def install_command(part: str) -> str:
    """Installs a part (`client`, `tokenizer`, `engine`, `all`) from where FolovLLM came from."""
    extra = "" if part == "client" else f"[{part}]"
    with_torch = part in ("engine", "all") and wants_cpu_torch()
    return pip_install(*_requirement(extra), cpu_torch=with_torch)


def pip_install(*arguments: str, cpu_torch: bool = False) -> str:
    """Installs into this Python; with `cpu_torch`, a torch that is built for CPUs."""
    installer = _pip("install")
    if cpu_torch:
        uses_uv = installer[0] == "uv"
        arguments += ("--torch-backend=cpu",) if uses_uv else ("--extra-index-url", TORCH_INDEX)
    return shlex.join([*installer, *arguments])


def pip_uninstall(*packages: str) -> str:
    """Removes packages from this Python, without asking for each."""
    remover = _pip("uninstall")
    if remover[0] != "uv":  # which never asks
        remover.append("--yes")
    return shlex.join([*remover, *packages])


def wants_cpu_torch() -> bool:
    """Whether torch is to come from TORCH_INDEX: on Linux, where there is no NVIDIA GPU."""
    return sys.platform == "linux" and not has_nvidia_gpu()


def is_clone() -> bool:
    """Whether this code runs from a clone of the repository."""
    return (CLONE / "pyproject.toml").is_file()


def _pip(action: str) -> list[str]:
    """This Python's pip, or where it has none, uv."""
    python = Path(sys.executable)
    if find_spec("pip") is None:
        return ["uv", "pip", action, "--python", typed_program(python)]
    found = shutil.which("pip")
    if found and Path(found).parent == python.parent:
        return ["pip", action]
    return [typed_program(python), "-m", "pip", action]


def _requirement(extra: str) -> list[str]:
    if is_clone():
        return ["-e", f"{typed_path(CLONE)}{extra}"]
    try:
        recorded = distribution(_NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        recorded = None
    if not recorded:
        return [f"{_NAME}{extra}"]
    origin = json.loads(recorded)
    url = origin["url"]
    if source := origin.get("vcs_info"):
        return [f"{_NAME}{extra} @ {source['vcs']}+{url}@{source['commit_id']}"]
    parts = urlsplit(url)
    if parts.scheme != "file":
        return [f"{_NAME}{extra} @ {url}"]
    path = Path(url2pathname(parts.path))
    return [f"{typed_path(path)}{extra}" if path.exists() else f"{_NAME}{extra}"]
