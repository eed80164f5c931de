"""How kernels are launched on a device: its multiprocessors, and launches that overlap.

With programmatic dependent launch (CUDA C++ Programming Guide, "Programmatic Dependent Launch and
Synchronization") a kernel may start while the one before it still runs. Every kernel here then
waits before it touches what others wrote, however early it lets the next one start. Only what was
written long before is read earlier: weights, the plan of a step, and keys of earlier steps. Between
its plan and its layers a step has a kernel of torch's, which waits for all kernels before it.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

# Without a GPU; a kernel's logic is the same for any number.
_MULTIPROCESSORS_INTERPRETED = 4


@cache
def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors a device has."""
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


@triton.jit
def overlap_launch(OVERLAP: tl.constexpr):
    """Lets the next kernel start, then waits for the one before."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


def cache_layout(cache: torch.Tensor) -> dict[str, int]:
    """Keyword arguments of kernels: how keys or values [blocks, block_size, heads, dims] lie."""
    block, token, head, _ = cache.stride()
    strides = {"stride_block": block, "stride_token": token, "stride_head": head}
    return strides | {"BLOCK_SIZE": cache.shape[1], "HEAD_DIM": cache.shape[3]}


def padded(size: int, min_size: int = 1) -> int:
    """The power of two that holds `size`; tiles have no other sizes."""
    return max(min_size, int(triton.next_power_of_2(size)))
