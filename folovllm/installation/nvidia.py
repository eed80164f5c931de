"""The NVIDIA GPUs of this machine, as its driver names them; needs no torch."""

import shutil
import subprocess
from dataclasses import dataclass

_COMMAND = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,driver_version",
    "--format=csv,noheader,nounits",
)
_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, its memory in MiB."""

    name: str
    memory_mib: int
    driver: str


class DriverError(Exception):
    """There is a driver's program, and it fails."""


def nvidia_gpus() -> list[Gpu]:
    """All of them; none without a driver. Raises DriverError."""
    if shutil.which(_COMMAND[0]) is None:
        return []
    try:
        done = subprocess.run(_COMMAND, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DriverError(f"nvidia-smi cannot be run: {error}") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        said = lines or done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise DriverError(f"nvidia-smi fails: {said[0]}")
    return [_gpu(line) for line in lines]


def has_nvidia_gpu() -> bool:
    """Whether a driver names one."""
    try:
        return bool(nvidia_gpus())
    except DriverError:
        return False


def _gpu(line: str) -> Gpu:
    name, memory, driver = (field.strip() for field in line.rsplit(",", 2))
    # Some virtual GPUs do not tell their memory.
    return Gpu(name, int(memory) if memory.isdecimal() else 0, driver)
