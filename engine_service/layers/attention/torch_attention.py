"""Paged attention in plain torch, for any device.

Decodes are computed as padded batches gathered through the block table, with the query heads of one
key head as the rows of a matrix: on a CPU several times faster than scaled_dot_product_attention.
Each other sequence is one call of that function.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from engine_service.layers.attention.backend import AttentionMetadata, KVCache
from engine_service.layers.attention.gathered import GatheredRows
from engine_service.layers.attention.paged_cache import PagedCache, write_rows

# Decodes of one group differ in length by at most this factor, so that padding at most doubles
# what is gathered.
_GROUP_SPREAD = 2


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Sequences of similar lengths, with one query token each; padded to the maximum."""

    start: int
    end: int
    """Their tokens are rows start to end of the batch."""
    cache_rows: Tensor
    """Rows of the cache seen as [num_blocks * num_kv_heads, …]: [sequences * heads * blocks]."""
    min_seq_len: int
    padding: Tensor
    """Which of the gathered keys lie past the sequence's end, [sequences, 1, 1, keys]."""


@dataclass(frozen=True, slots=True)
class PrefillSequence:
    """One sequence that is not a decode."""

    start: int
    end: int
    seq_len: int
    cache_rows: Tensor | None
    """As in DecodeGroup; None if all keys are the step's own."""
    mask: Tensor | None
    """Which key each query may see, [queries, keys]; None if they are simply causal."""


@dataclass(frozen=True, slots=True)
class TorchPlan:
    """One step: where KV is written, and how its sequences are gathered."""

    write_rows: Tensor
    """See `write_rows` of paged_cache."""
    decodes: tuple[DecodeGroup, ...]
    prefills: tuple[PrefillSequence, ...]


class TorchAttention(PagedCache):
    """The AttentionBackend that computes as many tokens at once as it can."""

    def __init__(self) -> None:
        self._gathered = GatheredRows()

    def plan(self, metadata: AttentionMetadata, num_kv_heads: int) -> TorchPlan:
        """See AttentionBackend."""
        heads = torch.arange(num_kv_heads, device=metadata.slot_mapping.device)
        return TorchPlan(
            write_rows=write_rows(metadata, num_kv_heads),
            decodes=tuple(
                _decode_group(metadata, heads, start, end)
                for start, end in pairwise(self.group_borders(metadata, num_kv_heads))
            ),
            prefills=tuple(
                _prefill_sequence(metadata, heads, row)
                for row in range(metadata.num_decodes, len(metadata.seq_lens))
            ),
        )

    def group_borders(self, metadata: AttentionMetadata, num_kv_heads: int) -> list[int]:
        """Where the decodes, sorted by length, are cut into groups: 0, …, num_decodes; or empty."""
        borders = [0]
        for row in range(metadata.num_decodes):
            min_len = metadata.seq_lens[borders[-1]]
            if metadata.seq_lens[row] > max(_GROUP_SPREAD * min_len, metadata.block_size):
                borders.append(row)
        return [*borders, metadata.num_decodes] if metadata.num_decodes else []

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache, plan: TorchPlan
    ) -> Tensor:
        """See AttentionBackend."""
        parts = [
            self._decode(query[group.start : group.end], cache, group) for group in plan.decodes
        ]
        for sequence in plan.prefills:
            rows = slice(sequence.start, sequence.end)
            keys, values = self._keys_and_values(key[rows], value[rows], cache, sequence)
            parts.append(self.prefill(query[rows], keys, values, sequence))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def prefill(
        self, query: Tensor, keys: Tensor, values: Tensor, sequence: PrefillSequence
    ) -> Tensor:
        """Attention of one sequence's tokens, [tokens, num_heads, head_dim].

        keys and values are all that the sequence has, [num_kv_heads, seq_len, head_dim].
        """
        tokens, num_heads, head_dim = query.shape
        kv_heads = len(keys)
        # Key heads as the batch and their query heads as the heads: keys are shared by stride 0.
        group = num_heads // kv_heads
        output = functional.scaled_dot_product_attention(
            query.view(tokens, kv_heads, group, head_dim).permute(1, 2, 0, 3),
            keys[:, None].expand(-1, group, -1, -1),
            values[:, None].expand(-1, group, -1, -1),
            attn_mask=sequence.mask,
            is_causal=sequence.mask is None,
        )
        return output.permute(2, 0, 1, 3).reshape(tokens, num_heads, head_dim)

    def _decode(self, query: Tensor, cache: KVCache, group: DecodeGroup) -> Tensor:
        """Attention of one token of each sequence of a group, [sequences, num_heads, head_dim]."""
        count, num_heads, head_dim = query.shape
        kv_heads = cache.key.shape[1]
        shape = (count, kv_heads, -1, head_dim)
        key, value = self._gathered.gather(cache, group.cache_rows, shape)
        # Unwritten slots may hold anything, and 0 * NaN is NaN.
        unused = group.padding[..., group.min_seq_len :].transpose(-1, -2)
        value[:, :, group.min_seq_len :].masked_fill_(unused, 0.0)
        rows = query.view(count, kv_heads, num_heads // kv_heads, head_dim) * head_dim**-0.5
        scores = torch.matmul(rows, key.transpose(-1, -2))
        scores.masked_fill_(group.padding, float("-inf"))
        weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        return torch.matmul(weights, value).view(count, num_heads, head_dim)

    def _keys_and_values(
        self, key: Tensor, value: Tensor, cache: KVCache, sequence: PrefillSequence
    ) -> tuple[Tensor, Tensor]:
        """Those of a whole sequence; `key` and `value` are its last."""
        if sequence.cache_rows is None:
            return key.transpose(0, 1), value.transpose(0, 1)
        shape = (key.shape[1], -1, key.shape[2])
        keys, values = self._gathered.gather(cache, sequence.cache_rows, shape)
        return keys[:, : sequence.seq_len], values[:, : sequence.seq_len]


def _decode_group(metadata: AttentionMetadata, heads: Tensor, start: int, end: int) -> DecodeGroup:
    max_len = max(metadata.seq_lens[start:end])
    num_blocks = -(-max_len // metadata.block_size)
    keys = torch.arange(num_blocks * metadata.block_size, device=heads.device)
    padding = keys >= metadata.seq_lens_tensor[start:end, None]
    return DecodeGroup(
        start=start,
        end=end,
        cache_rows=_cache_rows(metadata.block_tables[start:end, :num_blocks], heads),
        min_seq_len=min(metadata.seq_lens[start:end]),
        padding=padding[:, None, None, :],
    )


def _prefill_sequence(metadata: AttentionMetadata, heads: Tensor, row: int) -> PrefillSequence:
    start, end = metadata.query_start_loc[row : row + 2]
    seq_len = metadata.seq_lens[row]
    num_computed = seq_len - (end - start)
    if num_computed == 0:
        return PrefillSequence(start, end, seq_len, cache_rows=None, mask=None)
    num_blocks = -(-seq_len // metadata.block_size)
    positions = torch.arange(seq_len, device=heads.device)
    return PrefillSequence(
        start,
        end,
        seq_len,
        cache_rows=_cache_rows(metadata.block_tables[row : row + 1, :num_blocks], heads),
        mask=positions <= positions[num_computed:, None],
    )


def _cache_rows(block_tables: Tensor, heads: Tensor) -> Tensor:
    """[sequences, blocks] -> the flat rows that gather as [sequences, heads, blocks]."""
    return (block_tables[:, None, :] * heads.numel() + heads[:, None]).flatten()
