"""Which torch is installed, without importing it."""

import runpy
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

_CUDA_PACKAGES = ("nvidia-", "cuda-", "triton")


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """A version such as 2.13.0+cu130, and the CUDA it is built for; empty if it is for CPUs."""

    version: str
    cuda: str

    @property
    def public_version(self) -> str:
        """The version without what names the build."""
        return self.version.partition("+")[0]


def torch_build() -> TorchBuild | None:
    """That of the torch that would be imported; None without one."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("version.py")
    said = runpy.run_path(str(file)) if file.is_file() else {}
    if "__version__" not in said:  # half uninstalled
        return None
    return TorchBuild(said["__version__"], said.get("cuda") or "")


def cuda_packages() -> dict[str, int]:
    """The installed packages that torch needs for GPUs alone, with their bytes on disk."""
    sizes: dict[str, int] = {}
    pending = ["torch"]
    for name in pending:  # grows
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        if name != "torch":
            sizes[name] = sum(file.size or 0 for file in found.files or ())
        for text in found.requires or ():
            needed = Requirement(text).name
            if needed.startswith(_CUDA_PACKAGES) and needed not in pending:
                pending.append(needed)
    return sizes
