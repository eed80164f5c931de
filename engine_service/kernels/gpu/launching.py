"""How kernels are launched on a device: its multiprocessors, and launches that overlap.

With programmatic dependent launch (CUDA C++ Programming Guide, "Programmatic Dependent Launch and
Synchronization") a kernel may start while the one before it still runs. Every kernel here then
waits before it touches what others wrote, however early it lets the next one start. Only what is
written long before is read earlier: weights, the plan of a step, and keys of earlier steps. A step
has a kernel of torch's between its plan and its layers, and such a one waits for all before it.
"""

from functools import cache
from typing import Any

import torch
import triton

# What a kernel is written for where there is no GPU: its logic is the same for any number.
_MULTIPROCESSORS_INTERPRETED = 4


@cache
def multiprocessors(device: torch.device) -> int:
    """How many there are on a device."""
    if device.type != "cuda":
        return _MULTIPROCESSORS_INTERPRETED
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def launch_options(device: torch.device) -> dict[str, Any]:
    """Keyword arguments of every launch: whether it overlaps with the one before it.

    Processors before Hopper cannot.
    """
    overlaps = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return {"OVERLAP": True, "launch_pdl": True} if overlaps else {"OVERLAP": False}


def padded(size: int, least: int = 1) -> int:
    """The power of two that holds `size`, since tiles have such sizes alone."""
    return max(least, int(triton.next_power_of_2(size)))
