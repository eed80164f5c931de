"""The layout of the paged KV cache in plain torch, which attention backends share."""

from typing import Any

import torch
from torch import Tensor

from engine_service.layers.attention.backend import AttentionMetadata, CacheShape, KVCache


class PagedCache:
    """Allocates and fills a cache of [num_blocks, num_kv_heads, block_size, head_dim]."""

    def allocate(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> KVCache:
        """See AttentionBackend."""
        num_blocks, block_size, num_kv_heads, head_dim = shape
        sizes = (num_blocks, num_kv_heads, block_size, head_dim)
        return KVCache(*(torch.empty(sizes, dtype=dtype, device=device) for _ in range(2)))

    def write(self, key: Tensor, value: Tensor, cache: KVCache, plan: Any) -> None:
        """See AttentionBackend; `plan` has the `write_rows`."""
        head_dim = key.shape[-1]
        for target, source in ((cache.key, key), (cache.value, value)):
            target.view(-1, head_dim).index_copy_(0, plan.write_rows, source.reshape(-1, head_dim))


def slot_rows(slots: Tensor, num_kv_heads: int, block_size: int) -> Tensor:
    """The rows of slots [...], [..., num_kv_heads], in the cache viewed as
    [num_blocks * num_kv_heads * block_size, head_dim]."""
    heads = torch.arange(num_kv_heads, device=slots.device)
    blocks, offsets = slots // block_size, slots % block_size
    return (blocks[..., None] * num_kv_heads + heads) * block_size + offsets[..., None]


def write_rows(metadata: AttentionMetadata, num_kv_heads: int) -> Tensor:
    """A plan's `write_rows`: where the step's T tokens go, [T * num_kv_heads]; see `slot_rows`."""
    return slot_rows(metadata.slot_mapping, num_kv_heads, metadata.block_size).flatten()
