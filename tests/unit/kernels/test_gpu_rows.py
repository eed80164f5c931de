"""Norms, gates, rotary positions and the cache's writing equal plain torch's."""

import pytest
import torch

from engine_service.kernels.gpu.attention.rope import norm_rope_write
from engine_service.kernels.gpu.linear.norm import add_rms_norm
from engine_service.kernels.gpu.linear.silu import silu_mul as gpu_silu_mul
from support.twins.gpu_twins import (
    DEVICE,
    assert_near,
    gather,
    poisoned,
    random,
    rms_norm,
    rotate,
    silu_mul,
)

DTYPES = (torch.float32, torch.bfloat16)
EPS = 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [0, 1, 3])
def test_add_rms_norm(parts: int, dtype: torch.dtype) -> None:
    """Without a residual, with one, and with a sum of parts to add to it."""
    weight = random(100, dtype=dtype, seed=3)
    residual = random(5, 100, dtype=dtype, seed=4) if parts else None
    hidden = random(5, 100, dtype=dtype) if parts < 2 else random(3, 5, 100, dtype=torch.float32)
    wide = hidden.float().sum(0) if parts > 1 else hidden.float()
    total = (wide if residual is None else wide + residual.float()).to(dtype)
    normed, summed = add_rms_norm(hidden, residual, weight, EPS)
    torch.testing.assert_close(summed, total)
    assert_near(normed, rms_norm(total, weight, EPS), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [100, 1500])
def test_silu_mul(size: int, dtype: torch.dtype) -> None:
    gate_up = random(3, 2 * size, dtype=dtype)
    torch.testing.assert_close(gpu_silu_mul(gate_up), silu_mul(gate_up))


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "head_dim"), [((4, 2), 16), ((3, 3), 24)])
def test_norm_rope_write(
    heads: tuple[int, int], head_dim: int, dtype: torch.dtype, normed: bool, fp8: bool
) -> None:
    num_heads, kv_heads = heads
    qkv = random(3, (num_heads + 2 * kv_heads) * head_dim, dtype=dtype)
    q_weight = random(head_dim, dtype=dtype, seed=1) if normed else None
    k_weight = random(head_dim, dtype=dtype, seed=2) if normed else None
    angles = random(40, head_dim, dtype=torch.float32, seed=3)
    positions = torch.tensor([0, 17, 39], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([5, 70, 16], device=DEVICE)
    scales = torch.rand((2, kv_heads)).to(DEVICE) + 0.5 if fp8 else None
    kind = torch.float8_e4m3fn if fp8 else dtype
    caches = [
        poisoned(5, kv_heads, 16, head_dim, dtype=dtype).to(kind).permute(0, 2, 1, 3)
        for _ in range(2)
    ]
    query = norm_rope_write(
        qkv=qkv,
        q_weight=q_weight,
        k_weight=k_weight,
        eps=EPS,
        angles=angles,
        positions=positions,
        slot_mapping=slots,
        cache=(caches[0], caches[1]),
        scales=scales,
        num_heads=num_heads,
    )
    split = torch.split(qkv.view(3, -1, head_dim), [num_heads, kv_heads, kv_heads], dim=1)
    queries, keys, values = split
    if q_weight is not None and k_weight is not None:
        queries, keys = rms_norm(queries, q_weight, EPS), rms_norm(keys, k_weight, EPS)
    queries, keys = (rotate(each, angles[positions]) for each in (queries, keys))
    assert_near(query.float(), queries, dtype)
    for cache, expected, own in zip(caches, (keys, values), (0, 1), strict=True):
        table = torch.arange(5, device=DEVICE)
        found = gather(cache, table, 80)
        factor = 1.0 if scales is None else scales[own][:, None]
        assert_near(found[slots] * factor, expected, kind)
        untouched = torch.ones(80, dtype=torch.bool, device=DEVICE)
        untouched[slots] = False
        assert found[untouched].isnan().all()
