"""The layout of the paged KV cache in plain torch, which attention backends share."""

from typing import Protocol

import torch
from torch import Tensor

from engine_service.layers.attention.backend import AttentionMetadata, KVCache


class WritePlan(Protocol):
    """The part of a step's plan that writing needs."""

    @property
    def write_rows(self) -> Tensor:
        """Where the step's T tokens go, [T * num_kv_heads]: rows of the cache viewed as
        [num_blocks * num_kv_heads * block_size, head_dim]."""
        ...


class PagedCache:
    """Allocates and fills a cache of [num_blocks, num_kv_heads, block_size, head_dim]."""

    def allocate(
        self,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> KVCache:
        """See AttentionBackend."""
        shape = (num_blocks, num_kv_heads, block_size, head_dim)
        return KVCache(
            torch.empty(shape, dtype=dtype, device=device),
            torch.empty(shape, dtype=dtype, device=device),
        )

    def write(self, key: Tensor, value: Tensor, cache: KVCache, plan: WritePlan) -> None:
        """See AttentionBackend."""
        head_dim = key.shape[-1]
        for target, source in ((cache.key, key), (cache.value, value)):
            target.view(-1, head_dim).index_copy_(0, plan.write_rows, source.reshape(-1, head_dim))


def slot_rows(slots: Tensor, num_kv_heads: int, block_size: int) -> Tensor:
    """The rows of slots [...] in the cache viewed as in WritePlan, [..., num_kv_heads]."""
    heads = torch.arange(num_kv_heads, device=slots.device)
    blocks, offsets = slots // block_size, slots % block_size
    return (blocks[..., None] * num_kv_heads + heads) * block_size + offsets[..., None]


def write_rows(metadata: AttentionMetadata, num_kv_heads: int) -> Tensor:
    """The write_rows of a WritePlan."""
    return slot_rows(metadata.slot_mapping, num_kv_heads, metadata.block_size).flatten()
