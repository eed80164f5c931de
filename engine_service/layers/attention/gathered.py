"""GatheredRows: memory into which keys and values are gathered, kept from one call to the next.

New memory of megabytes is mapped by the system page by page each time, and given back each time:
that takes twice as long as to copy the keys.
"""

import torch
from torch import Tensor

from engine_service.layers.attention.backend import KVCache


class GatheredRows:
    """The rows of one call at a time, of any cache. What is gathered next takes their place."""

    def __init__(self) -> None:
        self._key = self._value = torch.empty(0)

    def gather(self, cache: KVCache, rows: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Copies of the rows of keys and values, viewed as `shape`; the caller may change them.

        `rows` are of the cache seen as [num_blocks * num_kv_heads, …].
        """
        self._key = _gather(self._key, cache.key, rows)
        self._value = _gather(self._value, cache.value, rows)
        size = rows.numel() * cache.key[0, 0].numel()
        return self._key[:size].view(shape), self._value[:size].view(shape)


def _gather(memory: Tensor, cache: Tensor, rows: Tensor) -> Tensor:
    """The memory, or larger one, which begins with the rows of a cache."""
    flat = cache.flatten(0, 1).flatten(1)
    size = rows.numel() * flat.shape[1]
    if memory.numel() < size or memory.dtype != cache.dtype or memory.device != cache.device:
        memory = cache.new_empty(size)
    torch.index_select(flat, 0, rows, out=memory[:size].view(-1, flat.shape[1]))
    return memory
