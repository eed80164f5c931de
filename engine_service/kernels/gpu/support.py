"""Whether the GPU kernels can be used on this host; imports nothing of theirs."""

import importlib.util
import os
import shutil


def obstacle() -> str | None:
    """What is missing for them, in words; None if nothing is.

    Triton comes with torch's builds for CUDA. It compiles kernels by itself, and the few lines of C
    that launch them with the host's compiler.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; install it, or torch's build for CUDA, which includes it"
    if not any(map(shutil.which, (os.environ.get("CC") or "gcc", "gcc", "clang"))):
        return "there is no C compiler; install gcc or clang, or name one in CC"
    return None
