"""Token ids in two parts are a sequence like any other."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_service.core.token_ids import SharedTokenIds, TokenIds, token_array

ids = st.lists(st.integers(0, 2**32 - 1), max_size=5)
ends = st.none() | st.integers(-12, 12)
steps = st.sampled_from((None, 1, 2, -1))


@given(ids, ids, st.builds(slice, ends, ends, steps))
def test_both_parts_are_one_sequence(shared: list[int], own: list[int], where: slice) -> None:
    whole, token_ids = [*shared, *own], TokenIds(SharedTokenIds(shared), own)
    assert len(token_ids) == len(whole) and list(token_ids) == whole == [*token_ids[:]]
    assert list(token_ids[where]) == whole[where]
    assert [token_ids[i] for i in range(-len(whole), len(whole))] == whole * 2
    assert token_ids == whole and token_ids == TokenIds.of(tuple(whole))
    assert token_ids != [*whole, 1] and not whole or token_ids != [whole[0] ^ 1, *whole[1:]]
    for index in (len(whole), -len(whole) - 1):
        with pytest.raises(IndexError):
            token_ids[index]


@given(ids, ids, st.integers(0, 12), st.integers(0, 12))
def test_a_part_is_what_a_slice_is(shared: list[int], own: list[int], a: int, b: int) -> None:
    start, end = sorted((a, b))
    part = TokenIds(SharedTokenIds(shared), own).part(start, end)
    assert part.typecode == "I" and list(part) == [*shared, *own][start:end]


def test_an_array_is_shared_and_anything_else_is_copied() -> None:
    given_ids = array("I", [1, 2])
    assert token_array(given_ids) is given_ids is TokenIds.of(given_ids).shared.ids
    token_ids = TokenIds.of(given_ids)
    assert TokenIds.of(token_ids) is token_ids
    assert token_array(range(3)) == array("I", [0, 1, 2])
    for wrong, error in (([-1], OverflowError), ([2**32], OverflowError), ([1.5], TypeError)):
        with pytest.raises(error):
            token_array(wrong)  # type: ignore[arg-type]
