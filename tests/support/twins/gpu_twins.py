"""What the GPU kernels compute, in plain torch and at least float32."""

import torch
from torch import Tensor
from torch.nn import functional

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NAN = float("nan")


def assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """That it is as near as rounding to `dtype` lets sums of some hundred products be."""
    rtol, atol = {torch.float32: (1e-4, 1e-5), torch.float8_e4m3fn: (0.07, 0.01)}.get(
        dtype, (3e-2, 2e-2)
    )
    torch.testing.assert_close(found.float(), expected.float(), rtol=rtol, atol=atol)


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    """A tensor of NaN, so that what is never written, or read in spite of that, shows."""
    return torch.full(shape, NAN, device=DEVICE).to(dtype)


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[..., size], in the weight's type, rounded before the weight is applied."""
    wide = hidden.float()
    normed = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return normed.to(weight.dtype) * weight


def silu_mul(gate_up: Tensor) -> Tensor:
    """[T, 2 * I] -> [T, I], with silu rounded to the input's type."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def rotate(heads: Tensor, angles: Tensor) -> Tensor:
    """Heads [T, heads, head_dim] rotated by angles [T, head_dim], cosines before sines; float32."""
    cos, sin = angles[:, None].float().chunk(2, dim=-1)
    low, high = heads.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def gather(cache: Tensor, table: Tensor, length: int) -> Tensor:
    """The first tokens of a sequence in a cache [blocks, block_size, heads, dim], float32."""
    block_size = cache.shape[1]
    positions = torch.arange(length, device=cache.device)
    return cache[table[positions // block_size].long(), positions % block_size].float()


def attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of the last tokens, [q, heads, dim], of a sequence [n, kv_heads, dim]."""
    group = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", query.float(), keys) * query.shape[-1] ** -0.5
    last = torch.arange(len(keys) - len(query), len(keys), device=query.device)
    unseen = torch.arange(len(keys), device=query.device) > last[:, None]
    shares = scores.masked_fill(unseen, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", shares, values)
