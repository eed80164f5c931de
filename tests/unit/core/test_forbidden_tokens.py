"""What a sequence must not draw next."""

import pytest

from engine_service.core.forbidden_tokens import forbidden_token_ids
from engine_service.core.request import Request, Sequence
from folovllm.sampling_params import SamplingParams


def sequence(output: list[int], **params: object) -> Sequence:
    (seq,) = Request("r", [1, 2], SamplingParams().clone(**params)).get_seqs()
    for token_id in output:
        seq.append(token_id)
    return seq


@pytest.mark.parametrize(
    ("output", "forbidden"),
    [
        ([], {7}),
        ([2], {7, 3}),
        ([2, 3], {7}),
        ([4, 5], {7, 6}),
        ([4, 4, 5], {7, 6}),
        ([4, 5, 2], {7, 3}),
        ([5], {7}),
    ],
)
def test_the_last_id_of_a_bad_word_is_forbidden_where_the_output_began_it(
    output: list[int], forbidden: set[int]
) -> None:
    # The prompt ends with 2, which does not count.
    seq = sequence(output, bad_words_token_ids=[[7], [2, 3], [4, 5, 6]])
    assert set(forbidden_token_ids(seq, [99])) == forbidden


def test_what_ends_a_sequence_is_forbidden_before_min_tokens() -> None:
    params = {"min_tokens": 2, "stop_token_ids": [8], "bad_words_token_ids": [[7]]}
    assert set(forbidden_token_ids(sequence([5], **params), [99])) == {7, 8, 99}
    assert set(forbidden_token_ids(sequence([5], ignore_eos=True, **params), [99])) == {7, 8}
    assert set(forbidden_token_ids(sequence([5, 5], **params), [99])) == {7}
