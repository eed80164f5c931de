"""What the GPU does at most: a large copy, and a large matrix product, measured in the same run."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.line import COPY, MATMUL, ROOFLINE, Line
from benchmarks.gpu.timing import time_calls

_MATMUL_S = 0.5
"""Long enough for the clocks to come down to what they keep: data that is random draws power."""


def cases(bench: Bench) -> list[BenchCase]:
    """The copy and the product; every share in the tables refers to them."""
    return [
        BenchCase(COPY, partial(_lines, _copy, bench)),
        BenchCase(MATMUL, partial(_lines, _matmul, bench)),
    ]


def _lines(measure: Callable[[Bench], Line], bench: Bench) -> Iterator[Line]:
    yield measure(bench)


def _copy(bench: Bench) -> Line:
    """From one buffer to another; counts what is read and what is written."""
    source = torch.ones(bench.plan.copy_mib * 2**20, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    # A graph would leave it to the copy engine, which is slower than the multiprocessors.
    timing = time_calls([lambda: target.copy_(source)], bench.device, capture=False)
    return Line(ROOFLINE, COPY, timing.seconds, num_bytes=2 * source.nbytes)


def _matmul(bench: Bench) -> Line:
    """Square matrices of normal numbers in bfloat16: of zeros it would be faster than any use."""
    size = bench.plan.matmul_size
    left, right = (
        torch.randn(size, size, device=bench.device).to(torch.bfloat16) for _ in range(2)
    )
    product = torch.empty_like(left)
    calls = [lambda: torch.matmul(left, right, out=product)]
    timing = time_calls(calls, bench.device, _MATMUL_S)
    return Line(ROOFLINE, MATMUL, timing.seconds, operations=2.0 * size**3)
