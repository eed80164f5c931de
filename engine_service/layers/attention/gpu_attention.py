"""Attention on GPUs: which kernel computes which part of a batch, and the cache that they share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine_service.kernels.gpu.attention.decode_attention import decode_attention
from engine_service.kernels.gpu.attention.decode_plan import (
    DecodeTiling,
    DecodeWorkspace,
    make_decode_workspace,
    plan_decode,
)
from engine_service.kernels.gpu.attention.extend_attention import (
    extend_attention,
    query_block_bound,
)
from engine_service.kernels.gpu.attention.few_attention import (
    MAX_SEQS,
    few_decode_attention,
    make_few_workspace,
)
from engine_service.kernels.gpu.attention.heads import RawHeads
from engine_service.layers.attention.backend import AttentionMetadata, CacheShape, KVCache

# Programs that convert 8-bit numbers need more registers.
_FP8_TILING = DecodeTiling(programs=2)
MAX_VERIFIED = 8
"""Query tokens of a sequence whose keys are split among programs: a draft and the token before."""


@dataclass(frozen=True, slots=True)
class BatchPart:
    """Sequences of a batch that one kernel computes; int32, on the device."""

    seq_lens: Tensor
    """Tokens whose KV each has once the step's own are written, [B]; 0 is no sequence."""
    table_rows: Tensor
    """The row of the batch's block tables that each has, [B]."""
    query_start_loc: Tensor | None
    """Where their tokens begin in the batch, [B + 1]; None if sequence b has only token b."""


@dataclass(frozen=True, slots=True)
class GpuBatch:
    """How the T tokens of a step belong to sequences; tensors are on the device."""

    slot_mapping: Tensor
    """Where each token's KV is written, [T]."""
    block_tables: Tensor
    """int32 [rows, W]"""
    split: BatchPart | None
    """Sequences with few tokens, whose keys are shared among programs."""
    split_query_len: int
    """Tokens that each of them may have: 1, or MAX_VERIFIED."""
    extend: BatchPart | None = None
    """Sequences with any number of tokens."""
    num_query_blocks: int = 0
    """What `query_block_bound` gives for those."""

    @property
    def decodes(self) -> bool:
        """Whether each sequence has one token and there are no others."""
        return self.extend is None and self.split_query_len == 1


def gpu_batch(metadata: AttentionMetadata, num_heads: int, num_kv_heads: int) -> GpuBatch:
    """The same batch as kernels take it."""
    starts = metadata.query_start_loc
    lengths = [end - start for start, end in zip(starts, starts[1:], strict=False)]
    count, num_split = len(lengths), metadata.num_decodes
    if num_split < count and max(lengths) <= MAX_VERIFIED:
        num_split = count
    seq_lens = metadata.seq_lens_tensor.int()
    numbers = torch.tensor([*range(count), *starts], dtype=torch.int32, device=seq_lens.device)
    rows, start_loc = numbers[:count], numbers[count:]
    split_query_len = 1 if num_split == metadata.num_decodes else MAX_VERIFIED
    split_starts = None if split_query_len == 1 else start_loc
    split = BatchPart(seq_lens[:num_split], rows[:num_split], split_starts)
    extend = BatchPart(seq_lens[num_split:], rows[num_split:], start_loc[num_split:])
    return GpuBatch(
        slot_mapping=metadata.slot_mapping,
        block_tables=metadata.block_tables.int(),
        split=split if num_split else None,
        split_query_len=split_query_len,
        extend=extend if num_split < count else None,
        num_query_blocks=query_block_bound(lengths[num_split:], num_heads // num_kv_heads),
    )


class GpuAttention:
    """The kernels for a model's shape, their workspaces, and the cache.

    Blocks are laid out head by head, so that what a program reads of a block is contiguous.
    """

    def __init__(
        self, num_heads: int, num_kv_heads: int, head_dim: int, device: torch.device
    ) -> None:
        self._shape = num_heads, num_kv_heads, head_dim, device
        self._tiling = DecodeTiling()
        self._workspaces: dict[int, DecodeWorkspace] = {}
        self._few = make_few_workspace(num_heads, head_dim, device)

    def allocate(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> KVCache:
        """See CacheAllocator. An 8-bit cache has scales of 1."""
        if dtype.itemsize == 1:
            self._tiling = _FP8_TILING
        num_blocks, block_size, num_kv_heads, head_dim = shape
        sizes = num_blocks, num_kv_heads, block_size, head_dim
        key, value = (
            torch.empty(sizes, dtype=dtype, device=device).permute(0, 2, 1, 3) for _ in range(2)
        )
        if dtype.itemsize > 1:
            return KVCache(key, value)
        return KVCache(key, value, torch.ones((2, num_kv_heads), device=device))

    def reserve(self, max_num_seqs: int) -> None:
        """Replaces the workspaces with larger ones, for steps of `max_num_seqs` sequences."""
        for query_len in (1, MAX_VERIFIED):
            self._workspaces[query_len] = make_decode_workspace(
                max_num_seqs, query_len, *self._shape, self._tiling
            )

    def plan(self, batch: GpuBatch) -> None:
        """Before the first layer of a step."""
        if batch.split is not None and not _is_few(batch):
            split, workspace = batch.split, self._workspace(batch)
            plan_decode(split.seq_lens, split.table_rows, self._shape[1], workspace)

    def decode(self, qkv: Tensor, raw: RawHeads, cache: KVCache, batch: GpuBatch) -> Tensor:
        """Attention of a batch that `decodes`, [T, num_heads, head_dim], from its projections."""
        assert batch.split is not None
        num_heads, _, head_dim, _ = self._shape
        out = qkv.new_empty((len(qkv), num_heads, head_dim))
        sequences = batch.block_tables, batch.split.table_rows, batch.split.seq_lens
        if _is_few(batch):
            few_decode_attention(qkv, raw, cache, *sequences, self._few, out)
        else:
            decode_attention(qkv, cache, *sequences, self._workspace(batch), out, raw=raw)
        return out

    def forward(self, query: Tensor, cache: KVCache, batch: GpuBatch) -> Tensor:
        """Causal attention of queries [T, num_heads, head_dim] whose own KV is in the cache."""
        out = torch.empty_like(query)
        if batch.split is not None:
            decode_attention(
                query,
                cache,
                batch.block_tables,
                batch.split.table_rows,
                batch.split.seq_lens,
                workspace=self._workspace(batch),
                out=out,
                query_start_loc=batch.split.query_start_loc,
            )
        if batch.extend is not None:
            assert batch.extend.query_start_loc is not None
            extend_attention(
                query,
                cache,
                batch.block_tables,
                batch.extend.table_rows,
                batch.extend.seq_lens,
                query_start_loc=batch.extend.query_start_loc,
                num_query_blocks=batch.num_query_blocks,
                out=out,
            )
        return out

    def _workspace(self, batch: GpuBatch) -> DecodeWorkspace:
        assert batch.split is not None
        num_seqs, query_len = len(batch.split.seq_lens), batch.split_query_len
        workspace = self._workspaces.get(query_len)
        if workspace is None or len(workspace.first_tiles) <= num_seqs:
            self.reserve(num_seqs)
        return self._workspaces[query_len]


def _is_few(batch: GpuBatch) -> bool:
    """Whether the kernel for few sequences decodes the whole batch."""
    assert batch.split is not None
    return batch.decodes and len(batch.split.seq_lens) <= MAX_SEQS
