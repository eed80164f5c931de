"""Paged attention in plain torch, with the tokens of a step grouped for a CPU."""

import torch
from torch import Tensor

from engine_service.layers.attention.backend import AttentionMetadata
from engine_service.layers.attention.torch_attention import PrefillSequence, TorchAttention

# Keys of all heads that a group gathers: their copies then fit the processor's cache, and memory
# that the allocator holds. Larger ones are mapped by the system page by page.
_MAX_KEYS = 8192
# Keys of all heads that a group wastes on padding: about what one more group costs.
_MAX_PADDING = 4096
# Queries of a prompt that are computed together, and the maximum length of a sequence computed so:
# products in bfloat16 beat the fused operator until the scores outgrow the processor's cache.
_QUERY_TILE = 128
_MAX_TILED_LEN = 2048


class CpuAttention(TorchAttention):
    """The AttentionBackend whose decodes cost as much as their keys, however ragged they are.

    Prompts in bfloat16 are computed in tiles of queries, each against the keys up to its end.
    """

    def group_borders(self, metadata: AttentionMetadata, num_kv_heads: int) -> list[int]:
        """See TorchAttention. A group has one sequence, or few keys and little padding."""
        borders, keys = [0], 0
        for row, seq_len in enumerate(metadata.seq_lens[: metadata.num_decodes]):
            padded = (row + 1 - borders[-1]) * seq_len * num_kv_heads
            keys += seq_len * num_kv_heads
            if padded > _MAX_KEYS or padded - keys > _MAX_PADDING:
                if row > borders[-1]:
                    borders.append(row)
                keys = seq_len * num_kv_heads
        return [*borders, metadata.num_decodes] if metadata.num_decodes else []

    def prefill(
        self, query: Tensor, keys: Tensor, values: Tensor, sequence: PrefillSequence
    ) -> Tensor:
        """See TorchAttention."""
        if query.dtype is not torch.bfloat16 or sequence.seq_len > _MAX_TILED_LEN:
            return super().prefill(query, keys, values, sequence)
        tokens, num_heads, head_dim = query.shape
        kv_heads, group = len(keys), num_heads // len(keys)
        heads = (query * head_dim**-0.5).view(tokens, kv_heads, group, head_dim)
        future = torch.ones(_QUERY_TILE, _QUERY_TILE, dtype=torch.bool).triu(1)
        parts: list[Tensor] = []
        for tile in heads.permute(1, 2, 0, 3).split(_QUERY_TILE, dim=2):
            size = tile.shape[2]
            reach = sequence.seq_len - tokens + len(parts) * _QUERY_TILE + size
            rows = tile.reshape(kv_heads, group * size, head_dim)
            scores = torch.bmm(rows, keys[:, :reach].transpose(1, 2))
            own = scores.view(kv_heads, group, size, reach)[..., reach - size :]
            own.masked_fill_(future[:size, :size], float("-inf"))
            weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
            mixed = torch.bmm(weights, values[:, :reach])
            parts.append(mixed.view(kv_heads, group, size, head_dim))
        return torch.cat(parts, dim=2).permute(2, 0, 1, 3).reshape(query.shape)
