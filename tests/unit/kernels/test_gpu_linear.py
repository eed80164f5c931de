"""Products with few rows equal plain torch's, whatever is done before and after them."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine_service.kernels.gpu.linear import gemv, matmul
from support.twins.gpu_twins import assert_near, poisoned, random, rms_norm, silu_mul

DTYPES = (torch.float32, torch.bfloat16)
EPS = 1e-6


def weights(outputs: int, inputs: int, dtype: torch.dtype) -> Tensor:
    return (random(outputs, inputs, dtype=torch.float32, seed=1) / math.sqrt(inputs)).to(dtype)


def expected(rows: Tensor, weight: Tensor, bias: Tensor | None, gated: bool) -> Tensor:
    wide = functional.linear(rows.float(), weight.float(), None if bias is None else bias.float())
    return silu_mul(wide) if gated else wide


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 8])
@pytest.mark.parametrize("gated", [False, True])
def test_gemv(num_rows: int, gated: bool, dtype: torch.dtype) -> None:
    rows, weight = random(num_rows, 100, dtype=dtype), weights(74, 100, dtype)
    bias = None if gated else random(74, dtype=dtype, seed=2)
    found = gemv.gemv(rows, weight, bias, gated=gated)
    assert_near(found.float(), expected(rows, weight, bias, gated), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 5])
def test_gemv_in_parts(num_rows: int, dtype: torch.dtype) -> None:
    rows, weight = random(num_rows, 100, dtype=dtype), weights(40, 100, dtype)
    bias = random(40, dtype=dtype, seed=2)
    tiling = gemv.GemvTiling(outputs=16, inputs=32)
    found = gemv.gemv(rows, weight, bias, split=True, tiling=tiling)
    assert found.shape == (4, num_rows, 40)
    assert_near(found.sum(0), expected(rows, weight, bias, False), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("parts", [0, 1, 3])
def test_normed_gemv(parts: int, gated: bool, dtype: torch.dtype) -> None:
    """Without a residual, with one, and with a sum of parts to add to it."""
    weight, scale = weights(74, 100, dtype), random(100, dtype=dtype, seed=3)
    residual = random(2, 100, dtype=dtype, seed=4) if parts else None
    hidden = random(2, 100, dtype=dtype) if parts < 2 else random(3, 2, 100, dtype=torch.float32)
    wide = hidden.float().sum(0) if parts > 1 else hidden.float()
    total = (wide if residual is None else wide + residual.float()).to(dtype)
    found, summed = gemv.norm_gemv(hidden, residual, scale, EPS, weight, gated=gated)
    torch.testing.assert_close(summed, total)
    assert_near(found.float(), expected(rms_norm(total, scale, EPS), weight, None, gated), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [9, 40])
@pytest.mark.parametrize(("gated", "split"), [(False, False), (True, False), (False, True)])
def test_matmul(num_rows: int, gated: bool, split: bool, dtype: torch.dtype) -> None:
    rows, weight = random(num_rows, 150, dtype=dtype), weights(74, 150, dtype)
    bias = None if gated else random(74, dtype=dtype, seed=2)
    tiling = matmul.MatmulTiling(outputs=32, inputs=32, share=64)
    found = matmul.matmul(rows, weight, bias, gated=gated, split=split, tiling=tiling)
    if split:
        found = found.sum(0)
    assert_near(found.float(), expected(rows, weight, bias, gated), dtype)


def test_rows_beyond_the_last_are_not_read() -> None:
    storage = poisoned(4, 64, dtype=torch.float32)
    storage[:3] = random(3, 64, dtype=torch.float32)
    weight = weights(20, 64, torch.float32)
    for product in (gemv.gemv, matmul.matmul):
        found = product(storage[:3], weight)
        assert_near(found, storage[:3] @ weight.T, torch.float32)
