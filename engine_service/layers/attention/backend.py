"""Attention over a paged KV cache: a step's metadata, and what a backend must do.

The tokens of all sequences lie one after another in one batch of T tokens. A sequence's keys and
values lie in blocks of `block_size` tokens, listed in its row of `block_tables`; a backend decides
how a block is laid out.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """How the T tokens of a step belong to its B sequences. Made once, used by every layer.

    The first `num_decodes` sequences have exactly one query token each, shorter ones first. Tensors
    are int64 on the model's device; tuples hold the same numbers for the host.
    """

    num_decodes: int
    query_start_loc: tuple[int, ...]
    """Where each sequence's tokens start in the batch; B + 1 numbers, the last is T."""
    seq_lens: tuple[int, ...]
    """Tokens whose KV each sequence has once the step's own are written; B numbers."""
    seq_lens_tensor: Tensor
    """The same, [B]."""
    block_tables: Tensor
    """Block ids, [B, maximum blocks of a sequence]; past a sequence's end any valid ids, whose
    content is never used."""
    slot_mapping: Tensor
    """Where each token's KV is written: block id * block_size + offset, [T]."""
    block_size: int


class KVCache(NamedTuple):
    """The keys and the values of one layer; in both, dimension 0 counts blocks."""

    key: Tensor
    value: Tensor
    scales: Tensor | None = None
    """Factors of an 8-bit cache's values, float32 [2, num_kv_heads], the keys' first."""


CacheShape = tuple[int, int, int, int]
"""num_blocks, block_size, num_kv_heads, head_dim"""


class CacheAllocator(Protocol):
    """Makes the KV cache."""

    def allocate(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> KVCache:
        """The cache of one layer; its content is undefined and, on a CPU, its memory untouched."""


class AttentionBackend(CacheAllocator, Protocol):
    """Lays out, fills and reads the cache. Nobody else looks into its plans."""

    def plan(self, metadata: AttentionMetadata, num_kv_heads: int) -> Any:
        """What every layer's call of a step has in common, computed once for the step."""

    def write(self, key: Tensor, value: Tensor, cache: KVCache, plan: Any) -> None:
        """Writes keys and values [T, num_kv_heads, head_dim] to their slots."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache, plan: Any
    ) -> Tensor:
        """Causal attention of the step's queries, after `write`.

        query is [T, num_heads, head_dim] and so is the result; key and value are the step's own,
        [T, num_kv_heads, head_dim]. Query head h reads key head h // (num_heads / num_kv_heads).
        """
