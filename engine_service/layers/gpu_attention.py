"""Attention on GPUs: which kernel computes which part of a batch, and the cache that they share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine_service.kernels.gpu.decode_attention import decode_attention, raw_decode_attention
from engine_service.kernels.gpu.decode_plan import (
    DecodeWorkspace,
    make_decode_workspace,
    plan_decode,
)
from engine_service.kernels.gpu.extend_attention import extend_attention, query_block_bound
from engine_service.layers.attention import AttentionMetadata, KVCache

MOST_VERIFIED = 8
"""Query tokens of a sequence whose keys are split among programs: a draft, and what it follows."""


@dataclass(frozen=True, slots=True)
class GpuBatch:
    """How the T tokens of a step belong to its B sequences; tensors are on the device.

    The first `num_decodes` sequences have one token each.
    """

    num_decodes: int
    block_size: int
    slot_mapping: Tensor
    """int64 [T]"""
    seq_lens: Tensor
    """int32 [B]"""
    block_tables: Tensor
    """int32 [rows, W]"""
    table_rows: Tensor
    """The row of block_tables that each sequence has, int32 [B]."""
    query_start_loc: Tensor | None
    """int32 [B + 1]; None where every sequence decodes."""
    most_queries: int
    """Tokens of the sequence that has most."""
    num_query_blocks: int
    """What `query_block_bound` gives for those that do not decode."""


def gpu_batch(metadata: AttentionMetadata, num_heads: int, num_kv_heads: int) -> GpuBatch:
    """The same batch as kernels take it."""
    starts = metadata.query_start_loc
    lengths = [end - start for start, end in zip(starts, starts[1:], strict=False)]
    extending = lengths[metadata.num_decodes :]
    device = metadata.block_tables.device
    count = len(lengths)
    numbers = torch.tensor([*range(count), *starts], dtype=torch.int32)
    numbers = numbers.to(device, non_blocking=True)
    return GpuBatch(
        num_decodes=metadata.num_decodes,
        block_size=metadata.block_size,
        slot_mapping=metadata.slot_mapping,
        seq_lens=metadata.seq_lens_tensor.int(),
        block_tables=metadata.block_tables.int(),
        table_rows=numbers[:count],
        query_start_loc=numbers[count:] if extending else None,
        most_queries=max(lengths),
        num_query_blocks=query_block_bound(extending, num_heads // num_kv_heads),
    )


class GpuAttention:
    """The kernels for a model's shape, and the memory that they work in.

    It makes the cache too. Blocks are laid out head by head, so that what a program reads of a
    block lies in one piece.
    """

    def __init__(
        self, num_heads: int, num_kv_heads: int, head_dim: int, device: torch.device
    ) -> None:
        self._shape = num_heads, num_kv_heads, head_dim, device
        self._workspaces: dict[int, DecodeWorkspace] = {}

    def allocate(
        self,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> KVCache:
        """See CacheAllocator. An 8-bit cache has scales of 1."""
        shape = num_blocks, num_kv_heads, block_size, head_dim
        key, value = (
            torch.empty(shape, dtype=dtype, device=device).permute(0, 2, 1, 3) for _ in range(2)
        )
        if dtype.itemsize > 1:
            return KVCache(key, value)
        return KVCache(key, value, torch.ones((2, num_kv_heads), device=device))

    def reserve(self, max_num_seqs: int) -> None:
        """Makes room for steps of so many sequences, in place of what there was."""
        for query_len in (1, MOST_VERIFIED):
            self._workspaces[query_len] = make_decode_workspace(
                max_num_seqs, query_len, *self._shape
            )

    def plan(self, batch: GpuBatch) -> None:
        """Before the first layer of a step."""
        parts = self._split(batch)
        if parts is not None:
            count = parts[0]
            plan_decode(
                batch.seq_lens[:count],
                batch.table_rows[:count],
                batch.block_tables,
                batch.block_size,
                self._shape[1],
                self._workspace(*parts),
            )

    def decode(
        self,
        qkv: Tensor,
        norms: tuple[Tensor | None, Tensor | None],
        eps: float,
        angles: Tensor,
        cache: KVCache,
        batch: GpuBatch,
    ) -> Tensor:
        """Attention of a batch in which every sequence decodes, [T, num_heads, head_dim].

        From its projections as they are: see `raw_decode_attention`.
        """
        num_heads, _, head_dim, _ = self._shape
        out = qkv.new_empty((len(qkv), num_heads, head_dim))
        raw_decode_attention(
            qkv,
            norms,
            eps,
            angles,
            cache[:2],
            cache.scales,
            batch.block_tables,
            batch.table_rows,
            batch.seq_lens,
            self._workspace(len(qkv), 1),
            out,
        )
        return out

    def forward(self, query: Tensor, cache: KVCache, batch: GpuBatch) -> Tensor:
        """Causal attention of queries [T, num_heads, head_dim] whose own KV is in the cache."""
        out = torch.empty_like(query)
        parts = self._split(batch)
        count = 0
        if parts is not None:
            count, query_len = parts
            decode_attention(
                query,
                cache[:2],
                cache.scales,
                batch.block_tables,
                batch.table_rows[:count],
                batch.seq_lens[:count],
                self._workspace(*parts),
                out,
                None if query_len == 1 else batch.query_start_loc,
            )
        if count < len(batch.seq_lens):
            assert batch.query_start_loc is not None
            extend_attention(
                query,
                cache[:2],
                cache.scales,
                batch.block_tables,
                batch.table_rows[count:],
                batch.seq_lens[count:],
                batch.query_start_loc[count:],
                batch.num_query_blocks,
                out,
            )
        return out

    def _split(self, batch: GpuBatch) -> tuple[int, int] | None:
        """The first sequences whose keys are split among programs, and their most query tokens."""
        count = len(batch.seq_lens)
        if batch.num_decodes < count and batch.most_queries <= MOST_VERIFIED:
            return count, MOST_VERIFIED
        return (batch.num_decodes, 1) if batch.num_decodes else None

    def _workspace(self, num_seqs: int, query_len: int) -> DecodeWorkspace:
        workspace = self._workspaces.get(query_len)
        if workspace is None or len(workspace.first_tiles) <= num_seqs:
            self.reserve(num_seqs)
        return self._workspaces[query_len]
