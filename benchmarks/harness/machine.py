"""What a measurement ran on, in words."""

import os
import platform
from pathlib import Path

import torch


def describe(device: str = "cpu") -> str:
    """Device, processor and versions, on one line."""
    words = (
        f"{_processor()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
    if device != "cuda":
        return words
    gpu = torch.cuda.get_device_properties(0)
    return f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}; {words}"


def _processor() -> str:
    """The processor's name if Linux knows it, else its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
