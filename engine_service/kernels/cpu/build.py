"""Compiles the CPU kernels, `cpu/*.cpp`, into one library, which takes some seconds.

    python -m engine_service.kernels.cpu.build

The library is named after what it is made of, so that each version is compiled once. It lies beside
its sources, or in the user's cache folder where that one cannot be written.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from folovllm.cache_folder import cache_folder

SOURCES = Path(__file__).parent
# What `library` asks the processor for.
_FLAGS = (
    *("-O3", "-std=c++20", "-shared", "-fPIC", "-pthread"),
    *("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"),
)
COMPILERS = ("g++", "c++")
_TIMEOUT_S = 300


class KernelBuildError(Exception):
    """There is no compiler, or it fails."""


def find_library() -> Path | None:
    """The library of these sources, where it has been compiled already."""
    return next((path for path in _places() if path.is_file()), None)


def build_library() -> Path:
    """Compiles the library and returns where it is. Raises KernelBuildError."""
    compiler = _compiler()
    for path in _places():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                # It appears whole or not at all, whoever else compiles at the same time.
                unfinished = Path(folder) / path.name
                _compile(compiler, unfinished)
                unfinished.replace(path)
        except OSError:
            continue
        return path
    raise KernelBuildError(
        f"none of {', '.join(str(path.parent) for path in _places())} is writable"
    )


def _compiler() -> str:
    """`$CXX`, or the first of the usual ones that there is."""
    for name in filter(None, (os.environ.get("CXX"), *COMPILERS)):
        if found := shutil.which(name):
            return found
    raise KernelBuildError("there is no C++ compiler; install g++, or name another in CXX")


def _compile(compiler: str, target: Path) -> None:
    sources = sorted(map(str, SOURCES.glob("*.cpp")))
    command = [compiler, *_FLAGS, *sources, "-o", str(target)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise KernelBuildError(f"{compiler} took over {_TIMEOUT_S} s") from None
    except OSError as error:
        raise KernelBuildError(f"{compiler} cannot be run: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if "error" in line] or lines or [str(done.returncode)]
        raise KernelBuildError(f"{compiler} fails: {errors[0]}")


def _places() -> tuple[Path, Path]:
    """Where the library may be, the first choice first."""
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for path in sorted(SOURCES.glob("*.[ch]*")):
        digest.update(path.read_bytes())
    name = f"folovllm_cpu_{digest.hexdigest()[:16]}.so"
    return SOURCES / name, cache_folder() / "kernels" / name


def main() -> int:
    """Compiles where it has not been done yet; a machine that cannot goes on without."""
    try:
        path = find_library() or build_library()
    except KernelBuildError as error:
        print(f"plain torch will compute, not the CPU kernels: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
