"""Split decode attention equals attention over each sequence's own tokens, however it is cut."""

import pytest
import torch
from gpu_twins import DEVICE, poisoned, tolerance
from paged_batch import PagedBatch, paged_batch
from torch import Tensor

from engine_service.kernels.gpu.decode_attention import (
    DecodeTiling,
    decode_attention,
    make_decode_workspace,
    plan_decode,
)

DTYPES = (torch.float32, torch.bfloat16)


def run(batch: PagedBatch, max_query_len: int = 1, tile: int = 16, programs: int = 2) -> Tensor:
    """Twice with one workspace: what it leaves there must not matter."""
    _, num_heads, head_dim = batch.query.shape
    kv_heads = batch.cache[0].shape[2]
    workspace = make_decode_workspace(
        len(batch.seq_lens) + 1,
        max_query_len,
        num_heads,
        kv_heads,
        head_dim,
        DEVICE,
        DecodeTiling(tile, programs=programs),
    )
    plan_decode(batch.seq_lens, kv_heads, workspace)
    results = []
    for _ in range(2):
        out = poisoned(*batch.query.shape, dtype=batch.query.dtype)
        decode_attention(
            batch.query,
            batch.cache,
            batch.scales,
            batch.block_tables,
            batch.table_rows,
            batch.seq_lens,
            workspace,
            out,
            batch.query_start_loc if max_query_len > 1 else None,
        )
        results.append(out)
    assert not workspace.arrivals.any()
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    return results[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seq_lens", [[1], [200], [3, 100, 17, 1, 64], [1] * 9], ids=str)
def test_sequences_of_any_lengths(seq_lens: list[int], dtype: torch.dtype) -> None:
    batch = paged_batch(seq_lens, [1] * len(seq_lens), dtype)
    torch.testing.assert_close(run(batch).float(), batch.expected(), **tolerance(dtype))


@pytest.mark.parametrize("tile", [16, 32])
@pytest.mark.parametrize("block_size", [16, 32])
def test_tiles_and_blocks_of_any_sizes(tile: int, block_size: int) -> None:
    batch = paged_batch([70, 5, 33], [1] * 3, torch.float32, block_size=block_size)
    found = run(batch, tile=tile, programs=3)
    torch.testing.assert_close(found, batch.expected(), **tolerance(torch.float32))


@pytest.mark.parametrize(("heads", "head_dim"), [((2, 2), 24), ((8, 1), 32), ((6, 2), 16)])
def test_groups_and_sizes_of_heads(heads: tuple[int, int], head_dim: int) -> None:
    batch = paged_batch([40, 9], [1, 1], torch.float32, heads=heads, head_dim=head_dim)
    torch.testing.assert_close(run(batch), batch.expected(), **tolerance(torch.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_query_tokens_see_what_comes_before_them(dtype: torch.dtype) -> None:
    batch = paged_batch([8, 60, 17, 2], [8, 3, 8, 1], dtype)
    found = run(batch, max_query_len=8).float()
    torch.testing.assert_close(found, batch.expected(), **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_8_bit_cache(dtype: torch.dtype) -> None:
    batch = paged_batch([40, 21], [1, 1], dtype, fp8=True)
    torch.testing.assert_close(run(batch).float(), batch.expected(), **tolerance(dtype))
