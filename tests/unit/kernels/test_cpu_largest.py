"""The kernel that finds each row's largest logit, against torch.max."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from support.builders.cpu_kernels import BFLOAT16, context


def largest(rows: Tensor, num_threads: int = 1) -> tuple[Tensor, Tensor]:
    values, columns = torch.empty(len(rows)), torch.empty(len(rows), dtype=torch.int64)
    context(num_threads).largest(
        rows.data_ptr(), *rows.shape, values.data_ptr(), columns.data_ptr()
    )
    return values, columns


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("num_columns", [1, 15, 16, 17, 100, 16384, 16385, 50_000])
@pytest.mark.parametrize("num_rows", [1, 2, 7])
def test_it_is_that_of_torch(num_rows: int, num_columns: int, num_threads: int) -> None:
    rows = torch.randn(num_rows, num_columns).to(BFLOAT16)
    values, columns = largest(rows, num_threads)
    assert torch.equal(values, rows.float().amax(-1))
    # bfloat16 has few values, so that several columns are often equal: the first one counts.
    assert torch.equal(columns, rows.float().eq(values[:, None]).int().argmax(-1))


@given(
    st.lists(st.sampled_from([-float("inf"), -3.0, 0.0, 1.0, 2.0]), min_size=1, max_size=70),
    st.integers(0, 69),
)
@settings(deadline=None)
def test_of_equal_ones_the_lowest_column_counts(values: list[float], place: int) -> None:
    values[place % len(values)] = 2.0
    found, columns = largest(torch.tensor([values]).to(BFLOAT16))
    assert found.tolist() == [2.0] and columns.tolist() == [values.index(2.0)]


@pytest.mark.parametrize("place", [0, 5, 16, 33, 20_000, 39_999])
def test_a_row_with_what_is_no_number_has_no_largest_one(place: int) -> None:
    rows = torch.randn(3, 40_000).to(BFLOAT16)
    rows[1, place] = float("nan")
    rows[2, place] = float("inf")
    values, columns = largest(rows, 2)
    assert values.isnan().tolist() == [False, True, False]
    assert (float(values[2]), int(columns[2])) == (float("inf"), place)


def test_a_row_of_nothing_but_minus_infinity() -> None:
    values, columns = largest(torch.full((1, 40), -float("inf")).to(BFLOAT16))
    assert values.tolist() == [-float("inf")] and columns.tolist() == [0]
