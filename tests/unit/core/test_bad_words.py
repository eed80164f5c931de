"""Bad words against their definition, and what finding them takes."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.core.forbidden_tokens import forbidden_token_ids
from engine_service.core.request import Branch, Request
from engine_service.core.sequence_parts.bad_words import BadWords
from folovllm.sampling_params import SamplingParams

Words = list[list[int]]
few_ids = st.integers(0, 2)


def by_definition(words: Words, output: Sequence[int]) -> list[int]:
    """The last id of each word whose other ids end the output."""
    return sorted(
        last
        for *begun, last in words
        if len(begun) <= len(output) and list(output[len(output) - len(begun) :]) == begun
    )


@st.composite
def words_and_outputs(draw: st.DrawFn) -> tuple[Words, list[int]]:
    """Of few ids, so that words begin, end and contain each other, and the output matches."""
    words = draw(st.lists(st.lists(few_ids, min_size=1, max_size=7), max_size=12))
    output = draw(st.lists(few_ids, max_size=6))
    if words:
        begun: list[int] = draw(st.sampled_from([[], *(word[:-1] for word in words)]))
        output += begun
    return words, output


@settings(max_examples=150, deadline=None)
@given(words_and_outputs(), st.data())
def test_completions_are_those_of_the_definition(
    drawn: tuple[Words, list[int]], data: st.DataObject
) -> None:
    words, output = drawn
    bad_words = BadWords(words)
    num_added = data.draw(st.integers(0, len(output)))
    known, added = output[: len(output) - num_added], output[len(output) - num_added :]
    assert sorted(bad_words.completions(known, added)) == by_definition(words, output)
    latest = known[max(0, len(known) - bad_words.longest) :]
    assert sorted(bad_words.completions(latest, added)) == by_definition(words, output)


@settings(max_examples=60, deadline=None)
@given(words_and_outputs(), st.lists(few_ids, min_size=1, max_size=4), st.data())
def test_only_output_begins_a_bad_word_also_that_of_a_branchs_parents(
    drawn: tuple[Words, list[int]], prompt: list[int], data: st.DataObject
) -> None:
    words, output = drawn
    params = SamplingParams().clone(bad_words_token_ids=words)
    request = Request("r", prompt, params)
    num_parents = data.draw(st.integers(0, 2))
    cuts = sorted(
        data.draw(st.lists(st.integers(0, len(output)), min_size=num_parents, max_size=num_parents))
    )
    done = 0
    for cut in cuts:
        (parent,) = request.get_seqs()
        for token_id in output[done:cut]:
            parent.append(token_id)
        done = cut
        (request,) = parent.branch_requests([Branch(params)])
    (seq,) = request.get_seqs()
    num_drafts = data.draw(st.integers(0, len(output) - done))
    for token_id in output[done : len(output) - num_drafts]:
        seq.append(token_id)
    drafts = output[len(output) - num_drafts :]
    assert sorted(forbidden_token_ids(seq, [99], drafts)) == by_definition(words, output)


class CountedId(int):
    """Counts how often any two are compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        CountedId.comparisons += 1
        return int(self) == other

    def __lt__(self, other: int) -> bool:
        CountedId.comparisons += 1
        return int(self) < other

    __hash__ = int.__hash__


def counted(ids: Sequence[int]) -> list[CountedId]:
    return [CountedId(each) for each in ids]


@pytest.mark.parametrize(
    "words",
    [
        [[7] * length + [1] for length in range(1, 512)],
        [[number, *[7] * 510, 1] for number in range(512)],
        [[*[7] * 511, number] for number in range(512)],
    ],
    ids=["nested", "differ at their first id", "differ at their last id"],
)
def test_a_look_up_takes_time_by_the_longest_match_not_by_the_number_of_words(words: Words) -> None:
    bad_words = BadWords(words)
    output = [7] * 511
    CountedId.comparisons = 0
    found = bad_words.completions(counted(output))
    # A bisection of at most 512 words compares with ten of them.
    assert CountedId.comparisons <= 12 * 512
    assert sorted(found) == by_definition(words, output)


def test_an_output_that_begins_no_word_is_seen_at_its_last_id() -> None:
    bad_words = BadWords([[number, *[7] * 510, 1] for number in range(512)])
    CountedId.comparisons = 0
    assert bad_words.completions(counted([7] * 510 + [8])) == ()
    assert CountedId.comparisons <= 1
