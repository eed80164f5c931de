"""Compiles the CPU kernels, `cpu/*.cpp`, into one library, which takes some seconds.

    python -m engine_service.kernels.cpu.build

The library is named by a hash of what it is made of, so each version is compiled once. It is put
beside its sources, else in the user's cache folder, else in one for temporary files: where the user
can write and others cannot.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from engine_service.kernels.cpu.structures import layout_assertions
from folovllm.installation.cache_folder import cache_folder
from folovllm.installation.trusted_files import distrust, make_private, make_private_folder

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
# `library` checks that the processor has these.
_FLAGS = (
    *("-O3", "-std=c++20", "-shared", "-fPIC", "-pthread"),
    *("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"),
)
COMPILERS = ("g++", "c++")
_STEM = "folovllm_cpu_"
_TIMEOUT_S = 300


class KernelBuildError(Exception):
    """There is no compiler, or compiling failed."""


def find_library() -> Path | None:
    """The library of these sources, if it has been compiled already, and not by others."""
    for path in _library_paths():
        if not path.is_file():
            continue
        reason = distrust(path)
        if reason is None:
            return path
        log.warning("the CPU kernels in %s are not used: %s", path, reason)
    return None


def compiled_libraries() -> list[Path]:
    """Those of these and other sources, in both places where they may be."""
    folders = {path.parent for path in _library_paths()}
    return sorted(path for folder in folders for path in folder.glob(f"{_STEM}*.so"))


def build_library() -> Path:
    """Compiles the library and returns where it is. Raises KernelBuildError."""
    compiler = find_compiler()
    for path in _library_paths():
        try:
            make_private_folder(path.parent)
            if distrust(path.parent):
                continue
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                # Renamed when complete, since others may compile at the same time.
                unfinished = Path(folder) / path.name
                _compile(compiler, unfinished)
                make_private(unfinished)
                unfinished.replace(path)
        except OSError:
            continue
        return path
    raise KernelBuildError(
        f"none of {', '.join(str(path.parent) for path in _library_paths())} is writable by this "
        "user, and by no other"
    )


def find_compiler() -> str:
    """`$CXX`, or the first of the usual ones that is installed. Raises KernelBuildError."""
    for name in filter(None, (os.environ.get("CXX"), *COMPILERS)):
        if found := shutil.which(name):
            return found
    raise KernelBuildError("there is no C++ compiler; install g++, or name another in CXX")


def _compile(compiler: str, target: Path) -> None:
    sources = sorted(map(str, SOURCES.glob("*.cpp")))
    # The assertions come from standard input.
    command = [compiler, *_FLAGS, f"-I{SOURCES}", *sources, "-xc++", "-", "-o", str(target)]
    try:
        done = subprocess.run(
            command,
            input=layout_assertions(),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KernelBuildError(f"{compiler} took over {_TIMEOUT_S} s") from None
    except OSError as error:
        raise KernelBuildError(f"{compiler} cannot be run: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if "error:" in line] or lines or [str(done.returncode)]
        raise KernelBuildError(f"{compiler} fails: {errors[0]}")


def _library_paths() -> tuple[Path, ...]:
    """Where the library may be, in order of preference."""
    digest = hashlib.sha256(" ".join((*_FLAGS, layout_assertions())).encode())
    for path in sorted(SOURCES.glob("*.[ch]*")):
        digest.update(path.read_bytes())
    name = f"{_STEM}{digest.hexdigest()[:16]}.so"
    temporary = Path(tempfile.gettempdir()) / f"folovllm-{os.geteuid()}"
    return SOURCES / name, cache_folder() / "kernels" / name, temporary / name


def main() -> int:
    """Compiles unless that has been done; a machine that cannot does without."""
    try:
        path = find_library() or build_library()
    except KernelBuildError as error:
        print(f"plain torch will compute, not the CPU kernels: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
