"""Batches for the GPU's attention of several new tokens, between queries of no sequence."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from engine_service.kernels.gpu.attention.extend_attention import (
    extend_attention,
    query_block_bound,
)
from support.twins.gpu_twins import DEVICE, poisoned
from support.twins.paged_batch import PagedBatch, paged_batch

ROWS_BEFORE, ROWS_AFTER = 131, 2


class ExtendBatch(PagedBatch):
    """Arguments of extend_attention."""

    def run(self, spare_blocks: int = 0) -> Tensor:
        """The kernel's output, NaN where it wrote nothing."""
        out = poisoned(*self.query.shape, dtype=self.query.dtype)
        group = self.query.shape[1] // self.cache[0].shape[2]
        bound = query_block_bound(self.query_start_loc.diff().tolist(), group)
        extend_attention(
            self.query,
            (*self.cache, self.scales),
            self.block_tables,
            self.table_rows,
            self.seq_lens,
            self.query_start_loc,
            bound + spare_blocks,
            out,
        )
        return out

    def expected(self) -> Tensor:
        """The same from plain attention, float32."""
        out = poisoned(*self.query.shape, dtype=torch.float32)
        start, *_, end = self.query_start_loc.tolist()
        out[start:end] = super().expected()
        return out

    def chunk(self, first: int, end: int) -> "ExtendBatch":
        """A step of the first sequence's queries from `first` to before `end` alone."""
        start, after = self.query_start_loc[:2].tolist()
        starts = torch.tensor([start + first, start + end], dtype=torch.int32, device=DEVICE)
        return replace(
            self,
            table_rows=self.table_rows[:1],
            seq_lens=self.seq_lens[:1] - (after - start - end),
            query_start_loc=starts,
        )


def extend_batch(
    lengths: Sequence[tuple[int, int]], dtype: torch.dtype, **shape: Any
) -> ExtendBatch:
    """Sequences of (tokens before the step, tokens of the step); queries around theirs are NaN.

    `shape` is paged_batch's.
    """
    seq_lens = [before + new for before, new in lengths]
    batch = paged_batch(seq_lens, [new for _, new in lengths], dtype, **shape)
    arguments = {field.name: getattr(batch, field.name) for field in fields(batch)}
    before, after = (
        poisoned(rows, *batch.query.shape[1:], dtype=dtype) for rows in (ROWS_BEFORE, ROWS_AFTER)
    )
    arguments["query"] = torch.cat((before, batch.query, after))
    arguments["query_start_loc"] = batch.query_start_loc + ROWS_BEFORE
    return ExtendBatch(**arguments)
