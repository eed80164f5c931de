"""What a lookup in the text so far proposes, against a search through all of it."""

from hypothesis import given
from hypothesis import strategies as st

from engine_service.core.spec_decode.ngram_proposer import MAX_ADDED, NgramProposer, Proposal


def propose(token_ids: list[int], most: int = 4) -> tuple[list[int], int] | None:
    return NgramProposer().propose(token_ids, most)


def test_what_followed_the_longest_end_is_proposed_and_of_equals_the_latest() -> None:
    assert propose([7, 1, 2, 3, 9, 1, 2, 3, 8, 5, 1, 2, 3]) == ([8, 5, 1, 2], 3)
    # The end of three is further back than that of two.
    assert propose([7, 1, 2, 3, 9, 9, 4, 2, 3, 8, 1, 2, 3]) == ([9, 9, 4, 2], 3)
    # More than four are not asked for.
    assert propose([5, 1, 2, 3, 4, 6, 0, 1, 2, 3, 4, 7, 5, 1, 2, 3, 4], 1) == ([7], 4)


def test_without_two_tokens_that_were_there_before_nothing_is_proposed() -> None:
    assert propose([1]) is None
    assert propose([1, 2]) is None
    assert propose([1, 2, 3, 4, 2]) is None


def test_what_followed_is_taken_to_repeat_itself() -> None:
    assert propose([4, 4, 4]) == ([4, 4, 4, 4], 2)
    assert propose([9, 1, 2, 1, 2], 5) == ([1, 2, 1, 2, 1], 2)


def test_a_long_text_is_taken_in_by_several_calls() -> None:
    text = [4, 5, 6] * MAX_ADDED
    proposer = NgramProposer()
    assert [proposer.propose(text, 2) for _ in range(4)] == [None, None, *[Proposal([4, 5], 4)] * 2]


def searched(token_ids: list[int], most: int) -> tuple[list[int], int] | None:
    """The same by its definition."""
    for length in (4, 3, 2):
        end = token_ids[len(token_ids) - length :] if length <= len(token_ids) else None
        for index in range(len(token_ids) - 2, length - 2, -1):
            if token_ids[index - length + 1 : index + 1] == end:
                extended = token_ids[:]
                while len(extended) < len(token_ids) + most:
                    extended.append(extended[index + 1 + len(extended) - len(token_ids)])
                return extended[len(token_ids) :], length
    return None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.integers(1, 6), st.data())
def test_it_finds_what_a_search_finds_however_the_text_grew(
    token_ids: list[int], most: int, data: st.DataObject
) -> None:
    proposer = NgramProposer()
    seen = 0
    while seen < len(token_ids):
        seen = data.draw(st.integers(seen + 1, len(token_ids)))
        assert proposer.propose(token_ids[:seen], most) == searched(token_ids[:seen], most)
