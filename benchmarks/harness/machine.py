"""What a measurement ran on, in words."""

import os
import platform
from pathlib import Path

import torch


def processor() -> str:
    """The processor's name where Linux tells it, else its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def describe() -> str:
    """Processor and versions, on one line."""
    return (
        f"{processor()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
