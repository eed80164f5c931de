"""The sampler draws exactly the distribution that its parameters define, reproducibly."""

import itertools
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine_service.core.outputs import ScheduledSequence
from engine_service.runner.sampling import filters
from engine_service.runner.sampling.filters import (
    NEVER,
    filtered_weights,
    inverse_cdf,
    top_k_candidates,
)
from engine_service.runner.sampling.ordering import kth_largest, sorted_falling
from engine_service.runner.sampling.sampler import sample
from engine_service.seeding import uniform
from folovllm.parameters.seeds import new_seed
from folovllm.sampling_params import SamplingParams
from support.twins.exact_sampling import exact_distribution, p_value

DRAWS = 50_000
GREEDY = SamplingParams(temperature=0.0)


def sequence(
    params: SamplingParams,
    *,
    seed: int = 7,
    position: int = 1,
    indexes: tuple[int, ...] = (0,),
    forbidden: tuple[int, ...] = (),
) -> ScheduledSequence:
    return ScheduledSequence(
        seq_id=position,
        token_ids=(0,),
        num_computed_tokens=position - 1,
        block_table=(0,),
        sampling_params=params,
        seed=seed,
        sample_indexes=indexes,
        forbidden_token_ids=forbidden,
    )


def draw_often(logits: torch.Tensor, params: SamplingParams) -> np.ndarray:
    """DRAWS draws from the same logits [V]: 100 sequence indexes at each of many positions."""
    indexes = tuple(range(100))
    rows = [
        sequence(params, position=position, indexes=indexes)
        for position in range(1, 1 + DRAWS // len(indexes))
    ]
    return np.array(sample(logits.repeat(len(rows), 1), rows)).flatten()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.6),
        SamplingParams(temperature=2.5),
        SamplingParams(top_k=5),
        SamplingParams(top_p=0.7),
        SamplingParams(min_p=0.1),
        SamplingParams(temperature=0.8, top_k=12, top_p=0.8),
        SamplingParams(temperature=1.5, top_k=9, top_p=0.9, min_p=0.05),
        SamplingParams(top_p=0.85, min_p=0.02),
    ],
)
def test_draws_follow_the_exact_distribution(params: SamplingParams) -> None:
    logits = 1.5 * torch.randn(24, generator=torch.Generator().manual_seed(3))
    assert p_value(draw_often(logits, params), exact_distribution(logits, params)) > 1e-4


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(top_k=1000),
        SamplingParams(temperature=0.5, top_p=0.9),
        SamplingParams(temperature=2.0, top_p=0.9),
    ],
)
def test_draws_from_a_full_vocabulary(params: SamplingParams) -> None:
    logits = 3.0 * torch.randn(151_936, generator=torch.Generator().manual_seed(4))
    row = sequence(params, indexes=tuple(range(DRAWS)))
    drawn = np.array(sample(logits[None], [row])[0])
    expected = exact_distribution(logits, params)
    bins = np.argsort(-expected)[:50]
    bin_of = np.full(len(expected), 50)
    bin_of[bins] = np.arange(50)
    assert p_value(bin_of[drawn], np.append(expected[bins], 1 - expected[bins].sum())) > 1e-4


def kept_tokens(
    logits: torch.Tensor, temperature: float, min_p: float, top_k: int, top_p: float
) -> list[list[int]]:
    """The ids that our filters leave in each row."""
    params = SamplingParams(temperature=temperature, min_p=min_p, top_k=top_k, top_p=top_p)
    weights, ids = filtered_weights(logits, [params] * len(logits))
    if ids is None:
        ids = torch.arange(logits.shape[-1]).expand_as(weights)
    return [row_ids[own > 0].tolist() for row_ids, own in zip(ids, weights, strict=True)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("min_p", [0.0, 0.03])
@pytest.mark.parametrize("top_k", [0, 1, 20, 199, 200])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 1e-6])
def test_filters_keep_what_transformers_keeps(
    temperature: float, min_p: float, top_k: int, top_p: float
) -> None:
    logits = 2.0 * torch.randn(16, 200, generator=torch.Generator().manual_seed(5))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    scores = warpers(cast(torch.LongTensor, logits.long()), cast(torch.FloatTensor, logits))
    expected = [row.isfinite().nonzero().flatten().tolist() for row in scores]
    assert kept_tokens(logits, temperature, min_p, top_k, top_p) == expected


@pytest.mark.parametrize("top_k", [0, 2048, 2049, 5999])
@pytest.mark.parametrize("temperature", [0.7, 50.0])
def test_filters_that_keep_much_of_a_vocabulary_keep_what_transformers_keeps(
    temperature: float, top_k: int
) -> None:
    logits = torch.randn(3, 6000, generator=torch.Generator().manual_seed(6))
    logits[1, ::7] = float("-inf")
    warpers = LogitsProcessorList(
        [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k or 6000)]
    )
    warpers.append(TopPLogitsWarper(0.9))
    scores = warpers(cast(torch.LongTensor, logits.long()), cast(torch.FloatTensor, logits))
    kept = kept_tokens(logits, temperature, 0.0, top_k, 0.9)
    for row, ids in zip(scores, kept, strict=True):
        expected = row.isfinite().nonzero().flatten().tolist()
        # Whether the last one is kept hangs on the rounding of thousands of sums.
        assert len({*ids} ^ {*expected}) <= 1


def test_candidates_that_stay_in_their_row_are_drawn_as_those_taken_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = torch.randn(4, 6000, generator=torch.Generator().manual_seed(7)).bfloat16()
    hot = SamplingParams(temperature=5.0)
    params = [
        hot.clone(top_k=3000),
        hot.clone(top_k=5999, top_p=0.9),
        hot.clone(top_k=2100, min_p=0.1),
        hot,
    ]
    rows = [sequence(each, indexes=tuple(range(50))) for each in params]
    in_row = sample(logits.clone(), rows)
    monkeypatch.setattr(filters, "_MAX_CANDIDATES", 6000)
    assert sample(logits.clone(), rows) == in_row


def test_rows_are_ordered_with_equals_and_what_cannot_be_drawn() -> None:
    values = torch.tensor([[1.0, 3.0, NEVER, 3.0, 2.0], [NEVER, 0.5, -1.0, NEVER, NEVER]])
    falling = values.sort(dim=-1, descending=True).values
    assert torch.equal(sorted_falling(values.clone()), falling)
    for ks in itertools.product(range(1, 6), repeat=2):
        assert kth_largest(values, ks).tolist() == [
            [falling[0, ks[0] - 1]],
            [falling[1, ks[1] - 1]],
        ]


def test_filters_keep_or_drop_equal_logits_together() -> None:
    logits = torch.tensor([[2.0, 1.0, 3.0, 2.0, 2.0, 0.0]])
    assert kept_tokens(logits, 1.0, 0.0, 2, 1.0) == [[0, 2, 3, 4]]
    assert kept_tokens(logits, 1.0, 0.0, 2, 0.6) == [[0, 2, 3, 4]]
    assert kept_tokens(logits, 1.0, 0.0, 0, 0.6) == [[0, 2, 3, 4]]
    assert kept_tokens(logits, 1.0, 0.0, 2, 0.3) == [[2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [6400, 6399, 100])
@pytest.mark.parametrize("top_ks", [(1, 1, 1), (5, 40, 100), (3, 7, 6300)])
def test_top_k_candidates_are_what_reaches_the_kth_largest(
    dtype: torch.dtype, vocab_size: int, top_ks: tuple[int, ...]
) -> None:
    values = 4 * torch.randn(3, vocab_size, generator=torch.Generator().manual_seed(9))
    values = values.to(dtype)
    values[1, 50:] = float("-inf")
    found, ids = top_k_candidates(values, top_ks)
    for row, top_k in enumerate(top_ks):
        smallest = values[row].sort(descending=True).values[min(top_k, vocab_size) - 1]
        kept = ((values[row] >= smallest) & values[row].isfinite()).nonzero().flatten()
        assert ids[row, : len(kept)].tolist() == kept.tolist()
        assert torch.equal(found[row, : len(kept)], values[row, kept])
        assert not found[row, len(kept) :].isfinite().any() and not ids[row, len(kept) :].any()


def test_top_k_candidates_reach_the_minimum() -> None:
    values = torch.arange(640.0).repeat(2, 1)
    found, ids = top_k_candidates(values, [3, 5], min_value=637.0)
    assert ids.tolist() == [[637, 638, 639]] * 2
    assert found.tolist() == [[637.0, 638.0, 639.0]] * 2


@pytest.mark.parametrize("deviation", [0.5, 4.0])
@pytest.mark.parametrize("min_p", [0.0, 0.05])
def test_top_p_of_a_full_vocabulary_keeps_what_transformers_keeps(
    deviation: float, min_p: float
) -> None:
    generator = torch.Generator().manual_seed(10)
    logits = deviation * torch.randn(3, 151_936, generator=generator)
    warpers = LogitsProcessorList([TopPLogitsWarper(0.9)])
    if min_p:
        warpers.insert(0, MinPLogitsWarper(min_p))
    scores = warpers(cast(torch.LongTensor, logits.long()), cast(torch.FloatTensor, logits))
    kept = [set(row.isfinite().nonzero().flatten().tolist()) for row in scores]
    ours = [set(row) for row in kept_tokens(logits, 1.0, min_p, 0, 0.9)]
    # transformers sums in float32, so that it may stop a few tokens earlier or later.
    assert all(len(a ^ b) <= len(a) // 1000 for a, b in zip(ours, kept, strict=True))


def mixed_batch() -> tuple[torch.Tensor, list[ScheduledSequence]]:
    generator = torch.Generator().manual_seed(6)
    numbers = np.random.default_rng(6)
    rows = [
        sequence(
            SamplingParams(
                temperature=float(numbers.choice([0.0, 0.3, 1.0, 2.0])),
                top_k=int(numbers.choice([0, 1, 3, 40, 700, 2000])),
                top_p=float(numbers.choice([1.0, 0.9, 0.5])),
                min_p=float(numbers.choice([0.0, 0.01, 0.2])),
            ),
            seed=int(numbers.integers(2**63)),
            position=int(numbers.integers(1, 1000)),
            indexes=tuple(range(int(numbers.integers(1, 4)))),
            forbidden=tuple(int(i) for i in numbers.integers(0, 1000, int(numbers.integers(4)))),
        )
        for _ in range(64)
    ]
    return 2.0 * torch.randn(64, 1000, generator=generator), rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_draws_the_same_alone_and_in_any_batch(dtype: torch.dtype) -> None:
    logits, rows = mixed_batch()
    logits = logits.to(dtype)
    together = sample(logits.clone(), rows)
    assert together == [sample(logits[i : i + 1].clone(), [rows[i]])[0] for i in range(64)]
    order = np.random.default_rng(7).permutation(64)[:40].tolist()
    shuffled = sample(logits[order], [rows[i] for i in order])
    assert shuffled == [together[i] for i in order]


def test_draws_depend_on_seed_index_and_position() -> None:
    logits = torch.zeros(1, 4096)

    def draw(seed: int, position: int, index: int) -> int:
        row = sequence(SamplingParams(), seed=seed, position=position, indexes=(index,))
        return sample(logits.clone(), [row])[0][0]

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(1, 2, 3), draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)}) == 4
    several = sample(logits, [sequence(SamplingParams(), seed=1, position=2, indexes=(3, 5))])[0]
    assert several == [draw(1, 2, 3), draw(1, 2, 5)]


def test_greedy_takes_the_lowest_of_the_most_probable() -> None:
    logits = torch.tensor([[0.0, 5.0, 5.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    rows = [sequence(GREEDY, indexes=(0, 1)), sequence(GREEDY)]
    assert sample(logits, rows) == [[1, 1], [0]]


@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        SamplingParams(),
        SamplingParams(top_k=2),
        SamplingParams(top_p=0.5),
        SamplingParams(top_k=5),
    ],
)
def test_forbidden_ids_are_never_drawn(params: SamplingParams) -> None:
    logits = torch.tensor([9.0, 0.0, 8.0, 0.5, 9.0, -1.0])
    row = sequence(params, indexes=tuple(range(2000)), forbidden=(0, 4, 2, 99))
    assert set(sample(logits[None], [row])[0]) <= {1, 3, 5}


def test_a_cold_temperature_is_the_greedy_choice() -> None:
    logits = torch.randn(1, 100, generator=torch.Generator().manual_seed(8))
    for temperature in (1e-3, 1e-20, 1e-45, 5e-324):
        row = sequence(SamplingParams(temperature=temperature))
        assert sample(logits.clone(), [row]) == [[int(logits.argmax())]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("params", [GREEDY, SamplingParams(top_k=2), SamplingParams()])
def test_from_logits_that_are_not_numbers_nothing_is_drawn(
    bad: float, params: SamplingParams
) -> None:
    rows = [sequence(params, position=position) for position in (3, 5, 7)]
    logits = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    expected = sample(logits.clone(), rows)
    logits[1, 3] = bad
    assert sample(logits.clone(), rows) == [expected[0], [], expected[2]]
    assert sample(logits[1:2].clone(), rows[1:2]) == [[]]


def test_where_all_that_is_allowed_is_forbidden_the_forbidden_may_be_drawn() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
    only = GREEDY.clone(allowed_token_ids=[0, 2])
    rows = [
        sequence(GREEDY, forbidden=(0, 1, 2)),
        sequence(only, forbidden=(0, 2)),
        sequence(only, forbidden=(2,)),
    ]
    assert sample(logits, rows) == [[1], [2], [0]]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40).filter(any),
    st.floats(0, 1, exclude_max=True),
)
def test_inverse_cdf_only_finds_weights_over_zero(weights: Sequence[float], number: float) -> None:
    row = torch.tensor([[*weights, 0.0, 0.0]])
    for share in (number, 0.0, 1 - 2.0**-53):
        column = inverse_cdf(row, torch.tensor([[share]], dtype=torch.float64))
        assert row[0, int(column)] > 0


def test_uniform_is_fixed_for_all_time() -> None:
    # SplitMix64's first output from state 0, then chained; a change would change users' outputs.
    assert [uniform(0, 0, 0), uniform(42, 1, 100), uniform(2**64 - 1, 127, 40960)] == [
        0.13870941014555427,
        0.8957369837338153,
        0.6705275036228832,
    ]


def test_uniform_is_uniform_over_each_word() -> None:
    for numbers in (
        [uniform(1234, 0, position) for position in range(20_000)],
        [uniform(1234, index, 17) for index in range(20_000)],
        [uniform(seed, 0, 17) for seed in range(20_000)],
    ):
        assert min(numbers) >= 0 and max(numbers) < 1
        assert stats.kstest(numbers, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


def test_new_seeds_differ_and_fit_63_bits() -> None:
    seeds = {new_seed() for _ in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
