"""What the GPU's attention of several new tokens computes, in plain torch, and batches for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from engine_service.kernels.gpu.extend_attention import extend_attention, query_block_bound

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NAN = float("nan")


@dataclass(frozen=True)
class Shape:
    """Of a layer and its cache."""

    kv_heads: int = 2
    group: int = 2
    head_dim: int = 16
    block_size: int = 16


@dataclass(frozen=True)
class Batch:
    """Arguments of extend_attention."""

    query: Tensor
    cache: tuple[Tensor, Tensor]
    scales: Tensor | None
    block_tables: Tensor
    table_rows: Tensor
    seq_lens: Tensor
    query_start_loc: Tensor

    def run(self, spare_blocks: int = 0) -> Tensor:
        """The kernel's output, NaN where it wrote nothing."""
        out = torch.full_like(self.query, NAN)
        group = self.query.shape[1] // self.cache[0].shape[2]
        bound = query_block_bound(self.query_start_loc.diff().tolist(), group)
        extend_attention(
            self.query,
            self.cache,
            self.scales,
            self.block_tables,
            self.table_rows,
            self.seq_lens,
            self.query_start_loc,
            bound + spare_blocks,
            out,
        )
        return out

    def expected(self) -> Tensor:
        """The same in float64."""
        out = torch.full_like(self.query, NAN, dtype=torch.float64)
        starts = self.query_start_loc.tolist()
        lengths = self.seq_lens.tolist()
        for sequence, seq_len in enumerate(lengths):
            rows = slice(starts[sequence], starts[sequence + 1])
            keys, values = self._tokens(sequence, seq_len)
            out[rows] = attention(self.query[rows].double(), keys, values)
        return out

    def chunk(self, first: int, end: int) -> "Batch":
        """A step of the first sequence's queries from `first` to before `end` alone."""
        start, after = self.query_start_loc[:2].tolist()
        starts = torch.tensor([start + first, start + end], dtype=torch.int32, device=DEVICE)
        return replace(
            self,
            table_rows=self.table_rows[:1],
            seq_lens=self.seq_lens[:1] - (after - start - end),
            query_start_loc=starts,
        )

    def _tokens(self, sequence: int, seq_len: int) -> tuple[Tensor, Tensor]:
        """Real keys and values of a sequence, each [seq_len, kv_heads, head_dim]."""
        blocks = self.block_tables[self.table_rows[sequence]].long()
        scales = torch.ones(2, 1) if self.scales is None else self.scales
        keys, values = (
            stored[blocks].flatten(0, 1)[:seq_len].double() * scale.to(DEVICE)[:, None]
            for stored, scale in zip(self.cache, scales, strict=True)
        )
        return keys, values


def attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Of the last tokens' queries [q_len, heads, head_dim] to [seq_len, kv_heads, head_dim]."""
    q_len, heads, head_dim = query.shape
    seq_len, kv_heads, _ = keys.shape
    keys, values = (tokens.repeat_interleave(heads // kv_heads, 1) for tokens in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", query, keys) * head_dim**-0.5
    sees = torch.ones(q_len, seq_len, device=query.device).tril(seq_len - q_len).bool()
    weights = scores.masked_fill(~sees, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, values)


def make_batch(
    shape: Shape,
    lengths: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    scales: Tensor | None = None,
) -> Batch:
    """Sequences of (tokens before the step, tokens of the step), in scattered blocks. Queries
    before and after theirs, slots past their ends and blocks of no sequence hold NaN. With scales,
    the cache is of float8_e4m3fn."""
    generator = torch.Generator().manual_seed(1)
    rows_before, rows_after = 3, 2
    seq_lens = [before + new for before, new in lengths]
    starts = list(accumulate((new for _, new in lengths), initial=rows_before))
    query = torch.full((starts[-1] + rows_after, shape.kv_heads * shape.group, shape.head_dim), NAN)
    query[rows_before:-rows_after] = torch.randn(query[5:].shape, generator=generator)

    counts = [-(-length // shape.block_size) for length in seq_lens]
    ids = torch.randperm(sum(counts) + 2, generator=generator, dtype=torch.int32)
    unused, ids = ids[0], ids[2:]
    cache = torch.full((2, len(ids) + 2, shape.block_size, shape.kv_heads, shape.head_dim), NAN)
    # The table has rows of no sequence, and its rows are not in the batch's order.
    table_rows = torch.randperm(len(lengths) + 2, generator=generator, dtype=torch.int32)[2:]
    tables = unused.repeat(len(lengths) + 2, max(counts) + 1)
    for row, blocks, seq_len in zip(table_rows, torch.split(ids, counts), seq_lens, strict=True):
        tables[row, : len(blocks)] = blocks
        tokens = torch.randn(2, seq_len, shape.kv_heads, shape.head_dim, generator=generator)
        places = torch.arange(seq_len)
        cache[:, blocks.long()[places // shape.block_size], places % shape.block_size] = tokens
    stored = cache.to(dtype if scales is None else torch.float8_e4m3fn).to(DEVICE)
    return Batch(
        query.to(DEVICE, dtype),
        (stored[0], stored[1]),
        None if scales is None else scales.to(DEVICE),
        tables.to(DEVICE),
        table_rows.to(DEVICE),
        torch.tensor(seq_lens, dtype=torch.int32, device=DEVICE),
        torch.tensor(starts, dtype=torch.int32, device=DEVICE),
    )
