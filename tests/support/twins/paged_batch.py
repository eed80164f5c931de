"""A batch of sequences with random keys and values in a paged cache full of NaN elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from support.twins.gpu_twins import DEVICE, attention, gather, poisoned, random


@dataclass(frozen=True)
class PagedBatch:
    """Sequences whose last `query_lens` tokens are the step's."""

    query: Tensor
    cache: tuple[Tensor, Tensor]
    scales: Tensor | None
    block_tables: Tensor
    table_rows: Tensor
    seq_lens: Tensor
    query_start_loc: Tensor

    def expected(self) -> Tensor:
        """What attention gives, [T, heads, dim], float32."""
        results = []
        starts = self.query_start_loc.tolist()
        for row, length in enumerate(self.seq_lens.tolist()):
            table = self.block_tables[int(self.table_rows[row])]
            keys, values = (gather(each, table, length) for each in self.cache)
            if self.scales is not None:
                keys, values = keys * self.scales[0][:, None], values * self.scales[1][:, None]
            results.append(attention(self.query[starts[row] : starts[row + 1]], keys, values))
        return torch.cat(results)


def paged_batch(
    seq_lens: Sequence[int],
    query_lens: Sequence[int],
    dtype: torch.dtype,
    *,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 16,
    block_size: int = 16,
    fp8: bool = False,
) -> PagedBatch:
    """Blocks are scattered; two more rows of the block tables belong to no sequence."""
    num_heads, kv_heads = heads
    counts = [-(-length // block_size) for length in seq_lens]
    generator = torch.Generator().manual_seed(sum(seq_lens))
    ids = torch.randperm(sum(counts) + 3, generator=generator).int()
    kind = torch.float8_e4m3fn if fp8 else dtype
    shape = (len(ids), kv_heads, block_size, head_dim)
    caches = [poisoned(*shape, dtype=dtype).permute(0, 2, 1, 3) for _ in range(2)]
    tables = torch.full((len(seq_lens) + 2, max(counts)), int(ids[-1]), dtype=torch.int32)
    rows = torch.randperm(len(tables), generator=generator)[: len(seq_lens)].int()
    used = 0
    for i, (length, count) in enumerate(zip(seq_lens, counts, strict=True)):
        own = ids[used : used + count]
        used += count
        tables[int(rows[i]), :count] = own
        slots = torch.arange(length)
        for number, cache in enumerate(caches):
            filling = random(length, kv_heads, head_dim, dtype=dtype, seed=2 * i + number)
            cache[own[slots // block_size].long(), slots % block_size] = filling
    scales = None
    if fp8:
        scales = 0.5 + torch.rand((2, kv_heads), generator=generator).to(DEVICE)
    starts = torch.tensor([0, *query_lens]).cumsum(0).int()
    return PagedBatch(
        query=random(int(starts[-1]), num_heads, head_dim, dtype=dtype, seed=99),
        cache=(caches[0].to(kind), caches[1].to(kind)),
        scales=scales,
        block_tables=tables.to(DEVICE),
        table_rows=rows.to(DEVICE),
        seq_lens=torch.tensor(seq_lens, dtype=torch.int32, device=DEVICE),
        query_start_loc=starts.to(DEVICE),
    )
