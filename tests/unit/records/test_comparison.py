"""Where an output first differs from the recorded one, and what has to be computed to know."""

import pytest

from folovllm.records.comparison import (
    Difference,
    first_difference,
    largest_logprob_difference,
    repeated_params,
)
from folovllm.records.record import Ending
from folovllm.sampling_params import SamplingParams
from support.builders.records import record, recorded

STOP, LENGTH, ABORT = Ending.STOP, Ending.LENGTH, Ending.ABORT


def test_the_same_tokens_and_the_same_end_are_no_difference() -> None:
    assert first_difference(recorded(1, 2, 3), [1, 2, 3], LENGTH) is None
    assert first_difference(recorded(1, 2, 3), [1, 2], None) is None
    assert first_difference(recorded(), [], None) is None


@pytest.mark.parametrize("ending", [Ending.ABORT, Ending.DEADLINE, Ending.STOP_STRING])
def test_what_was_ended_from_outside_is_compared_as_far_as_it_goes(ending: Ending) -> None:
    cut = recorded(1, 2, ending=ending)
    assert first_difference(cut, [1, 2, 3], LENGTH) is None
    assert first_difference(cut, [1, 2], STOP) is None
    assert first_difference(cut, [1], STOP) == Difference(0, 1, 2, None, ending, STOP)
    assert first_difference(cut, [1, 3], None) == Difference(0, 1, 2, 3, ending, None)


@pytest.mark.parametrize(
    ("found", "ending", "position", "ids"),
    [
        ([9, 2, 3], LENGTH, 0, (1, 9)),
        ([1, 2, 4], None, 2, (3, 4)),
        ([1, 2], STOP, 2, (3, None)),
        ([1, 2, 3, 4], None, 3, (None, 4)),
        ([1, 2, 3], STOP, 3, (None, None)),
    ],
)
def test_the_first_position_is_found(
    found: list[int], ending: Ending | None, position: int, ids: tuple[int | None, int | None]
) -> None:
    expected = Difference(4, position, *ids, LENGTH, ending)
    assert first_difference(recorded(1, 2, 3, index=4), found, ending) == expected


def test_log_probabilities_are_compared_up_to_the_difference_of_tokens() -> None:
    output = recorded(1, 2, 3, logprobs=(-0.5, -1.0, -4.0))
    assert largest_logprob_difference(output, [-0.5, -1.25, 0.0], 2) == 0.25
    assert largest_logprob_difference(output, [], 2) is None
    assert largest_logprob_difference(recorded(1), [-0.5], 1) is None


def test_no_more_is_computed_than_was_recorded_and_no_text_is_needed() -> None:
    params = SamplingParams(
        seed=3, max_tokens=100, stop=("x",), bad_words=("y",), bad_words_token_ids=((4,),)
    )
    whole = record(recorded(1, 2, ending=ABORT), sampling_params=params.to_proto())
    repeated = SamplingParams.from_proto(repeated_params(whole.sampling_params, whole.outputs))
    assert repeated == SamplingParams(seed=3, max_tokens=2, bad_words_token_ids=((4,),))
    slow = SamplingParams(seed=3, max_tokens=100, min_tokens=9)
    assert repeated_params(slow.to_proto(), [recorded()]).max_tokens == 9
    assert repeated_params(params.to_proto(), [recorded()]).max_tokens == 1
