"""The GPU's attention of several new tokens equals plain attention, whatever lies around them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine_service.kernels.gpu.attention.extend_attention import query_block_bound
from support.twins.extend_twin import ExtendBatch, extend_batch

# (tokens in the cache, tokens of the step) of each sequence
RAGGED = [(0, 1), (33, 2), (0, 17), (5, 0), (64, 64), (30, 100)]
FEW = [(0, 17), (63, 34)]
# A bfloat16 has 8 significant bits, a float16 has 11; weights are rounded, and so is the result.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def check(batch: ExtendBatch, spare_blocks: int = 0) -> None:
    """Every element: those of the sequences' rows, and NaN that is still there in the others."""
    tolerance = TOLERANCES[batch.query.dtype]
    found = batch.run(spare_blocks).float()
    torch.testing.assert_close(
        found, batch.expected(), rtol=tolerance, atol=tolerance, equal_nan=True
    )
    start, *_, end = batch.query_start_loc.tolist()
    assert not found[start:end].isnan().any()


# Of half-precision types, a tile of keys is one block of 64 tokens or several of 16.
@pytest.mark.parametrize(
    ("dtype", "block_size"), [(torch.float32, 16), (torch.bfloat16, 16), (torch.bfloat16, 64)]
)
def test_lengths_and_prefixes(dtype: torch.dtype, block_size: int) -> None:
    check(extend_batch(RAGGED, dtype, block_size=block_size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group", [1, 3, 4, 8])
def test_groups_of_heads(group: int, dtype: torch.dtype) -> None:
    check(extend_batch([(0, 17), (63, 50)], dtype, heads=(group, 1)))


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("head_dim", [8, 80, 256])
def test_sizes_of_heads(head_dim: int, dtype: torch.dtype) -> None:
    check(extend_batch(FEW, dtype, heads=(1, 1), head_dim=head_dim))


@pytest.mark.parametrize(
    ("dtype", "block_size"), [(torch.float32, 64), (torch.bfloat16, 16), (torch.bfloat16, 64)]
)
def test_scaled_cache(dtype: torch.dtype, block_size: int) -> None:
    check(extend_batch(FEW, dtype, head_dim=24, block_size=block_size, fp8=True))


def test_more_blocks_of_queries_than_there_are() -> None:
    check(extend_batch(FEW, torch.bfloat16), spare_blocks=9)


def test_no_sequence_has_new_tokens() -> None:
    check(extend_batch([(4, 0), (17, 0)], torch.bfloat16), spare_blocks=1)


def test_a_prompt_in_chunks() -> None:
    """Equals the prompt in one step. NumPy's products differ in the last bit from row to row."""
    batch = extend_batch([(20, 70), (3, 5)], torch.float32, heads=(2, 1), head_dim=24)
    start = int(batch.query_start_loc[0])
    whole = batch.run()
    for first, end in ((0, 17), (17, 18), (18, 70)):
        rows = slice(start + first, start + end)
        part = batch.chunk(first, end).run()
        torch.testing.assert_close(part[rows], whole[rows], rtol=1e-6, atol=1e-6)


def test_too_many_heads_of_a_group() -> None:
    with pytest.raises(ValueError, match="129 query heads"):
        query_block_bound([1], 129)


@given(st.lists(st.integers(0, 300), max_size=8), st.integers(0, 300), st.integers(1, 32))
def test_bound_suffices_and_grows(lengths: list[int], more: int, group: int) -> None:
    bound = query_block_bound(lengths, group)
    assert bound >= sum(-(-length // (128 // group)) for length in lengths)
    assert bound <= query_block_bound([*lengths, more], group)
