"""Log-probabilities of the raw distribution."""

from collections.abc import Sequence

import pytest
import torch

from engine_service.runner.sampling.logprobs import position_logprobs
from folovllm.logprobs import Logprob, PositionLogprobs


def finite_logprobs(
    logits: torch.Tensor, token_ids: Sequence[Sequence[int]], num_tops: Sequence[int]
) -> list[list[PositionLogprobs]]:
    found = position_logprobs(logits, token_ids, num_tops)
    rows = [row for row in found if row is not None]
    assert len(rows) == len(found)
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_log_softmax_in_float32_with_rank_and_candidates(dtype: torch.dtype) -> None:
    logits = (4 * torch.randn(3, 500, generator=torch.Generator().manual_seed(1))).to(dtype)
    exact = logits.double().log_softmax(-1)
    token_ids = [[7], [3, 499, 3], []]
    found = finite_logprobs(logits, token_ids, [2, 20, 0])
    assert [[p.token.token_id for p in row] for row in found] == token_ids
    for row, positions in enumerate(found):
        for position in positions:
            token = position.token
            assert token.logprob == pytest.approx(float(exact[row, token.token_id]), abs=1e-4)
            assert token.rank == 1 + int((exact[row] > exact[row, token.token_id]).sum())
            assert len(position.top) == (2, 20, 0)[row]
            order = exact[row].sort(descending=True, stable=True).indices
            assert [top.token_id for top in position.top] == order[: len(position.top)].tolist()
            for top in position.top:
                assert top.logprob == pytest.approx(float(exact[row, top.token_id]), abs=1e-4)
                assert top.rank == 1 + int((exact[row] > exact[row, top.token_id]).sum())


def test_equal_tokens_share_a_rank_and_stand_by_id() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 3.0, 1.0, 1.0]])
    ((position,),) = finite_logprobs(logits, [[4]], [4])
    assert position.token.rank == 3
    assert [(top.token_id, top.rank) for top in position.top] == [(1, 1), (3, 1), (2, 3), (4, 3)]


def test_more_candidates_than_tokens() -> None:
    ((position,),) = finite_logprobs(torch.zeros(1, 2), [[1]], [20])
    half = pytest.approx(-0.6931472)
    assert position.top == (Logprob(0, half, 1), Logprob(1, half, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_of_logits_that_are_not_numbers_has_none(bad: float) -> None:
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    expected = finite_logprobs(logits.clone(), [[0], [0], [2, 5]], [1, 1, 2])
    logits[1, 3] = bad
    found = position_logprobs(logits, [[0], [0], [2, 5]], [1, 1, 2])
    assert found == [expected[0], None, expected[2]]
    assert position_logprobs(logits[1:2], [[0]], [1]) == [None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_candidates_of_a_large_vocabulary(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 6400, generator=torch.Generator().manual_seed(2)).to(dtype)
    found = finite_logprobs(logits, [[7], [6399]], [20, 3])
    for row, count in ((0, 20), (1, 3)):
        order = logits[row].float().sort(descending=True, stable=True).indices[:count].tolist()
        assert [top.token_id for top in found[row][0].top] == order
        ranks = [1 + int((logits[row] > logits[row, token_id]).sum()) for token_id in order]
        assert [top.rank for top in found[row][0].top] == ranks


def test_tokens_without_probability_are_no_candidates() -> None:
    logits = torch.tensor([[1.0, float("-inf"), 2.0]])
    ((position,),) = finite_logprobs(logits, [[1]], [3])
    assert position.token.logprob == float("-inf") and position.token.rank == 3
    assert [(top.token_id, top.rank) for top in position.top] == [(2, 1), (0, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_tokens_of_a_row_have_the_ranks_that_each_has_alone(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(3)).to(dtype)
    logits[0, 20:60] = float("-inf")
    token_ids = [[*range(300)], [5], [299, 3] * 20]
    found = finite_logprobs(logits, token_ids, [2, 0, 1])
    for row, ids in enumerate(token_ids):
        alone = [finite_logprobs(logits[row : row + 1], [[i]], [(2, 0, 1)[row]])[0] for i in ids]
        assert [[each] for each in found[row]] == alone
