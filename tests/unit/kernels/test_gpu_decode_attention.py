"""Split decode attention equals attention over each sequence's own tokens, however it is cut."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine_service.kernels.gpu.attention import few_attention
from engine_service.kernels.gpu.attention.decode_attention import (
    decode_attention,
    raw_decode_attention,
)
from engine_service.kernels.gpu.attention.decode_plan import (
    DecodeTiling,
    DecodeWorkspace,
    make_decode_workspace,
    plan_decode,
)
from engine_service.kernels.gpu.attention.few_attention import (
    FewTiling,
    few_decode_attention,
    make_few_workspace,
)
from engine_service.kernels.gpu.attention.rope import norm_rope_write
from support.twins.gpu_twins import DEVICE, assert_near, poisoned, random
from support.twins.paged_batch import PagedBatch, paged_batch

DTYPES = (torch.float32, torch.bfloat16)


def plan(batch: PagedBatch, workspace: DecodeWorkspace) -> None:
    plan_decode(batch.seq_lens, batch.table_rows, batch.cache[0].shape[2], workspace)


def run(batch: PagedBatch, max_query_len: int = 1, tile: int = 16, programs: int = 2) -> Tensor:
    """Twice with one workspace: what it leaves there must not matter."""
    _, num_heads, head_dim = batch.query.shape
    kv_heads = batch.cache[0].shape[2]
    workspace = make_decode_workspace(
        max_num_seqs=len(batch.seq_lens) + 1,
        max_query_len=max_query_len,
        num_heads=num_heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        device=DEVICE,
        tiling=DecodeTiling(tile, programs=programs),
    )
    plan(batch, workspace)
    results = []
    for _ in range(2):
        out = poisoned(*batch.query.shape, dtype=batch.query.dtype)
        decode_attention(
            query=batch.query,
            cache=batch.cache,
            scales=batch.scales,
            block_tables=batch.block_tables,
            table_rows=batch.table_rows,
            seq_lens=batch.seq_lens,
            workspace=workspace,
            out=out,
            query_start_loc=batch.query_start_loc if max_query_len > 1 else None,
        )
        results.append(out)
    assert not workspace.arrivals.any()
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    return results[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seq_lens", [[1], [200], [3, 100, 17, 1, 64], [1] * 9], ids=str)
def test_sequences_of_any_lengths(seq_lens: list[int], dtype: torch.dtype) -> None:
    batch = paged_batch(seq_lens, [1] * len(seq_lens), dtype)
    assert_near(run(batch).float(), batch.expected(), dtype)


@pytest.mark.parametrize("tile", [16, 32])
@pytest.mark.parametrize("block_size", [16, 32])
def test_tiles_and_blocks_of_any_sizes(tile: int, block_size: int) -> None:
    batch = paged_batch([70, 5, 33], [1] * 3, torch.float32, block_size=block_size)
    found = run(batch, tile=tile, programs=3)
    assert_near(found, batch.expected(), torch.float32)


@pytest.mark.parametrize(("heads", "head_dim"), [((2, 2), 24), ((8, 1), 32), ((6, 2), 16)])
def test_groups_and_sizes_of_heads(heads: tuple[int, int], head_dim: int) -> None:
    batch = paged_batch([40, 9], [1, 1], torch.float32, heads=heads, head_dim=head_dim)
    assert_near(run(batch), batch.expected(), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_query_tokens_see_what_comes_before_them(dtype: torch.dtype) -> None:
    batch = paged_batch([8, 60, 17, 2], [8, 3, 8, 1], dtype)
    found = run(batch, max_query_len=8).float()
    assert_near(found, batch.expected(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_8_bit_cache(dtype: torch.dtype) -> None:
    batch = paged_batch([40, 21], [1, 1], dtype, fp8=True)
    assert_near(run(batch).float(), batch.expected(), dtype)


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_projections(
    dtype: torch.dtype, normed: bool, fp8: bool, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As norm_rope_write and attention one after the other, and the same cache is left."""
    batch = paged_batch([70, 1, 33, 16], [1] * 4, dtype, head_dim=24, fp8=fp8)
    _, _, kv_heads, head_dim = batch.cache[0].shape
    qkv = random(4, (4 + 2 * kv_heads) * head_dim, dtype=dtype)
    q_norm = random(head_dim, dtype=dtype, seed=1) if normed else None
    k_norm = random(head_dim, dtype=dtype, seed=2) if normed else None
    angles = random(80, head_dim, dtype=torch.float32, seed=3)
    apart = [cache.clone() for cache in batch.cache]
    last = batch.seq_lens - 1
    blocks = batch.block_tables[batch.table_rows.long(), (last // 16).long()]
    query = norm_rope_write(
        qkv=qkv,
        q_weight=q_norm,
        k_weight=k_norm,
        eps=1e-6,
        angles=angles,
        positions=last,
        slot_mapping=(blocks * 16 + last % 16).long(),
        cache=(apart[0], apart[1]),
        scales=batch.scales,
        num_heads=4,
    )
    out = poisoned(4, 4, head_dim, dtype=dtype)
    inputs = qkv, (q_norm, k_norm), 1e-6, angles, batch.cache, batch.scales
    batch_inputs = batch.block_tables, batch.table_rows, batch.seq_lens
    if few:
        # The longest sequence is split among four programs.
        monkeypatch.setattr(few_attention, "multiprocessors", lambda _: 64)
        room = make_few_workspace(4, head_dim, DEVICE, FewTiling(tile=16))
        few_decode_attention(*inputs, *batch_inputs, room, out)
        assert not room.arrivals.any()
    else:
        workspace = make_decode_workspace(
            max_num_seqs=4,
            max_query_len=1,
            num_heads=4,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            device=DEVICE,
            tiling=DecodeTiling(16),
        )
        plan(batch, workspace)
        raw_decode_attention(*inputs, *batch_inputs, workspace, out)
    assert_near(out, replace(batch, query=query).expected(), dtype)
    for cache, other in zip(batch.cache, apart, strict=True):
        # In 8 bits a number between two may be rounded to either.
        found, expected = (each.float().nan_to_num(7.0) for each in (cache, other))
        torch.testing.assert_close(found, expected, rtol=0.13, atol=0.02)
