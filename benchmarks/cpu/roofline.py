"""Roofline: what the machine can do at most, measured, and how fast a step could be on it.

A step must read its bytes and compute its operations; the longer of the two is its bound
(Williams, Waterman, Patterson 2009).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Roofline:
    """Ceilings of the processor with all threads that were allowed."""

    read_gb_per_s: float
    bf16_gflop_per_s: float
    float32_gflop_per_s: float

    def __str__(self) -> str:
        return (
            f"reads {self.read_gb_per_s:.1f} GB/s; multiplies {self.bf16_gflop_per_s:,.0f} GFLOP/s "
            f"in bf16 and {self.float32_gflop_per_s:,.0f} in float32"
        )

    def memory_bound_s(self, num_bytes: float) -> float:
        """Seconds in which so many bytes can be read."""
        return num_bytes / (self.read_gb_per_s * 1e9)

    def compute_bound_s(self, operations: float) -> float:
        """Seconds in which so many bf16 operations can be done."""
        return operations / (self.bf16_gflop_per_s * 1e9)


def measure(threads: int, read_mib: int, gemm_size: int, repeats: int = 5) -> Roofline:
    """The best of the repeats; sets the number of torch's threads of this process.

    Sums `read_mib` MiB of float32, far more than the caches hold, and multiplies square matrices.
    """
    torch.set_num_threads(threads)
    values = torch.ones(read_mib * 2**18)
    read_s = _best(values.sum, repeats)
    return Roofline(
        read_gb_per_s=values.nbytes / read_s / 1e9,
        bf16_gflop_per_s=_gemm_gflop_per_s(torch.bfloat16, gemm_size, repeats),
        float32_gflop_per_s=_gemm_gflop_per_s(torch.float32, gemm_size, repeats),
    )


def _gemm_gflop_per_s(dtype: torch.dtype, size: int, repeats: int) -> float:
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    product = torch.empty(size, size, dtype=dtype)
    seconds = _best(lambda: torch.matmul(left, right, out=product), repeats)
    return 2 * size**3 / seconds / 1e9


def _best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the quickest run, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
