"""Penalties, biases and masks against transformers' processors and the plain formulas."""

import itertools
from collections import Counter
from typing import cast

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor

from engine_service.core.outputs import ScheduledSequence
from engine_service.runner.sampling.logits_processors import process_logits
from engine_service.runner.sampling.sampler import sample
from folovllm.sampling_params import SamplingParams
from support.twins.exact_sampling import exact_distribution, p_value

VOCAB_SIZE = 120
PROMPT = [3, 5, 5, 8, 90]
OUTPUT = [7, 5, 7, 7, 100, 8, 101, 102]


def scheduled(
    params: SamplingParams,
    *,
    prompt: list[int] = PROMPT,
    output: list[int] = OUTPUT,
    indexes: tuple[int, ...] = (0,),
    position: int | None = None,
    forbidden: tuple[int, ...] = (),
) -> ScheduledSequence:
    history = [*prompt, *output]
    return ScheduledSequence(
        seq_id=0,
        token_ids=history[-1:],
        num_computed_tokens=(len(history) if position is None else position) - 1,
        block_table=(0,),
        sampling_params=params,
        seed=11,
        sample_indexes=indexes,
        forbidden_token_ids=forbidden,
        token_history=history,
        num_prompt_tokens=len(prompt),
    )


def random_logits(rows: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> torch.Tensor:
    return 3.0 * torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("penalty", [0.3, 0.9, 1.2, 2.0, 100.0])
def test_repetition_penalty_equals_transformers(penalty: float) -> None:
    logits = random_logits(4)
    ids = torch.tensor([[*PROMPT, *OUTPUT]]).repeat(4, 1)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(
        cast(torch.LongTensor, ids), cast(torch.FloatTensor, logits.clone())
    )
    params = SamplingParams(repetition_penalty=penalty)
    found = process_logits(logits.clone(), [scheduled(params)] * 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.equal(found, logits)


def test_logit_bias_equals_transformers() -> None:
    bias = {4: 2.5, 9: -100.0, 119: 100.0, 0: 0.125}
    logits = random_logits(3)
    expected = SequenceBiasLogitsProcessor([[[i], b] for i, b in bias.items()])(
        cast(torch.LongTensor, torch.zeros(3, 1, dtype=torch.long)),
        cast(torch.FloatTensor, logits.clone()),
    )
    params = SamplingParams().clone(logit_bias=bias)
    found = process_logits(logits.clone(), [scheduled(params)] * 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("presence", [0.0, 0.7, -2.0])
@pytest.mark.parametrize("frequency", [0.0, 0.4, -1.5])
def test_presence_and_frequency_count_the_output_only(presence: float, frequency: float) -> None:
    logits = random_logits(2)
    expected = logits.clone()
    for token_id, count in Counter(OUTPUT).items():
        expected[:, token_id] -= frequency * count + presence
    params = SamplingParams(presence_penalty=presence, frequency_penalty=frequency)
    found = process_logits(logits.clone(), [scheduled(params)] * 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    first = process_logits(logits.clone(), [scheduled(params, output=[])] * 2)
    assert torch.equal(first, logits)


def test_the_order_of_operations() -> None:
    params = SamplingParams(
        repetition_penalty=2.0,
        frequency_penalty=0.5,
        presence_penalty=0.25,
        logit_bias=((5, 3.0), (6, 1.0), (7, 1.0)),
        allowed_token_ids=(3, 5, 6, 7, 8),
    )
    logits = torch.full((1, VOCAB_SIZE), -1.0)
    found = process_logits(logits, [scheduled(params, forbidden=(8,))])[0]
    # 5: (-1 + 3) / 2 - 0.5 - 0.25; 7: (-1 + 1) / 2 - 3 * 0.5 - 0.25; 3 is the prompt's alone.
    expected = {3: -2.0, 5: 0.25, 6: 0.0, 7: -1.75}
    assert {i: float(found[i]) for i in range(VOCAB_SIZE) if found[i].isfinite()} == expected


MIXED = [
    SamplingParams(),
    SamplingParams(repetition_penalty=1.3),
    SamplingParams(presence_penalty=1.0, frequency_penalty=-0.5),
    SamplingParams(allowed_token_ids=(5, 7, 9)),
    SamplingParams(logit_bias=((7, 5.0),), temperature=0.0),
    SamplingParams(repetition_penalty=0.5, logit_bias=((5, -7.0),), allowed_token_ids=(5, 1, 7)),
    SamplingParams(temperature=0.0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_alone_and_in_a_mixed_batch(dtype: torch.dtype) -> None:
    logits = random_logits(len(MIXED)).to(dtype)
    rows = [
        scheduled(params, forbidden=(9,) if row % 2 else (), output=OUTPUT[:row])
        for row, params in enumerate(MIXED)
    ]
    together = process_logits(logits.clone(), rows).float()
    for row, sequence in enumerate(rows):
        alone = process_logits(logits[row : row + 1].clone(), [sequence])
        assert torch.equal(together[row], alone[0].float())
    assert torch.equal(together[0], logits[0].float())


class CountOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reaches torch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_rows_that_ask_for_nothing_cost_no_operator() -> None:
    logits = random_logits(8).bfloat16()
    plain = [scheduled(SamplingParams(temperature=0.0, logprobs=3))] * 8
    with CountOperators() as counted:
        assert process_logits(logits, plain) is logits
    assert counted.calls == 0


def test_a_tiny_penalty_leaves_the_logits_finite() -> None:
    params = SamplingParams(repetition_penalty=1e-38, temperature=0.0)
    logits = torch.full((1, VOCAB_SIZE), 20.0)
    assert sample(logits, [scheduled(params)])[0][0] in {*PROMPT, *OUTPUT}


PROMPT_SMALL, OUTPUT_SMALL = [1, 2, 2, 6], [4, 2, 4, 11]
DRAWS = 50_000
FILTERS: list[dict[str, object]] = [
    {},
    {"temperature": 0.7, "top_k": 7},
    {"temperature": 1.4, "top_p": 0.8},
    {"min_p": 0.05, "top_k": 9, "top_p": 0.9},
]
CHANGES: list[dict[str, object]] = [
    {"presence_penalty": 0.8},
    {"frequency_penalty": -0.6},
    {"repetition_penalty": 1.5},
    {"logit_bias": {3: 1.5, 4: -2.0, 15: 0.75}},
    {"allowed_token_ids": [0, 2, 3, 4, 6, 7, 9, 11, 13]},
    {"presence_penalty": -0.5, "frequency_penalty": 0.4, "repetition_penalty": 0.8},
    {"repetition_penalty": 1.3, "logit_bias": {2: 2.0, 8: 1.0}},
    {"allowed_token_ids": range(2, 14), "presence_penalty": 1.2, "logit_bias": {5: -1.0, 12: 1.0}},
]
COMBINATIONS = [{**filters, **changes} for filters, changes in itertools.product(FILTERS, CHANGES)]


@pytest.mark.parametrize("values", COMBINATIONS, ids=str)
def test_draws_follow_the_exact_distribution(values: dict[str, object]) -> None:
    params = SamplingParams().clone(**values)
    logits = random_logits(1, seed=3, vocab_size=16) / 2
    indexes = tuple(range(100))
    rows = [
        scheduled(
            params, prompt=PROMPT_SMALL, output=OUTPUT_SMALL, indexes=indexes, position=position
        )
        for position in range(1, 1 + DRAWS // len(indexes))
    ]
    drawn = np.array(sample(logits.repeat(len(rows), 1), rows)).flatten()
    expected = exact_distribution(logits[0], params, PROMPT_SMALL, OUTPUT_SMALL)
    assert p_value(drawn, expected) * len(COMBINATIONS) > 1e-4
