"""The kernel that finds each row's maximum and its column, against torch.max."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from support.builders.cpu_kernels import BFLOAT16, context


def argmax(rows: Tensor, num_threads: int = 1) -> tuple[Tensor, Tensor]:
    values, columns = torch.empty(len(rows)), torch.empty(len(rows), dtype=torch.int64)
    context(num_threads).argmax(rows.data_ptr(), *rows.shape, values.data_ptr(), columns.data_ptr())
    return values, columns


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("num_columns", [1, 15, 16, 17, 100, 16384, 16385, 50_000])
@pytest.mark.parametrize("num_rows", [1, 2, 7])
def test_it_agrees_with_torch(num_rows: int, num_columns: int, num_threads: int) -> None:
    rows = torch.randn(num_rows, num_columns).to(BFLOAT16)
    values, columns = argmax(rows, num_threads)
    assert torch.equal(values, rows.float().amax(-1))
    # bfloat16 has few values, so that several columns are often equal: the first one counts.
    assert torch.equal(columns, rows.float().eq(values[:, None]).int().argmax(-1))


@given(
    st.lists(st.sampled_from([-float("inf"), -3.0, 0.0, 1.0, 2.0]), min_size=1, max_size=70),
    st.integers(0, 69),
)
@settings(deadline=None)
def test_the_lowest_column_wins_a_tie(values: list[float], index: int) -> None:
    values[index % len(values)] = 2.0
    found, columns = argmax(torch.tensor([values]).to(BFLOAT16))
    assert found.tolist() == [2.0] and columns.tolist() == [values.index(2.0)]


@pytest.mark.parametrize("index", [0, 5, 16, 33, 20_000, 39_999])
def test_a_row_with_nan_has_the_maximum_nan(index: int) -> None:
    rows = torch.randn(3, 40_000).to(BFLOAT16)
    rows[1, index] = float("nan")
    rows[2, index] = float("inf")
    values, columns = argmax(rows, 2)
    assert values.isnan().tolist() == [False, True, False]
    assert (float(values[2]), int(columns[2])) == (float("inf"), index)


def test_a_row_of_minus_infinity() -> None:
    values, columns = argmax(torch.full((1, 40), -float("inf")).to(BFLOAT16))
    assert values.tolist() == [-float("inf")] and columns.tolist() == [0]
