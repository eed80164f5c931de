from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenizer_service.text.stop_strings import StopStrings

# Few letters, so that strings overlap themselves and each other.
TEXT = st.text("ab\n", max_size=40)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=6), max_size=4).map(tuple)
CUTS = st.lists(st.integers(0, 40), max_size=8)


def oracle(text: str, stop: tuple[str, ...], include: bool) -> tuple[str, str | None]:
    """Reads one more character at a time and asks whether the text now ends with a stop string."""
    for end in range(len(text) + 1):
        found = max((s for s in stop if text[:end].endswith(s)), key=len, default=None)
        if found is not None:
            return (text[:end] if include else text[: end - len(found)]), found
    return text, None


def run(stops: StopStrings, pieces: list[str]) -> tuple[list[str], str | None]:
    texts = []
    for piece in pieces:
        text, stop = stops.push(piece)
        texts.append(text)
        if stop is not None:
            return texts, stop
    return [*texts, stops.flush()], None


def split(text: str, cuts: list[int]) -> list[str]:
    bounds = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(bounds)]


@given(TEXT, STOPS, st.booleans(), CUTS)
@example("aabaab\n", ("aab\n",), False, [1, 2, 3, 4, 5, 6])
@example("abab", ("ababb", "ba"), False, [2])
@example("aaaab", ("aaab",), False, [])
@example("aababb", ("aabb",), False, [])
@example("abababb", ("ababb",), False, [])
@example("aabaaabaaaa", ("aabaaaa",), False, [])
def test_any_split_gives_what_the_oracle_gives(
    text: str, stop: tuple[str, ...], include: bool, cuts: list[int]
) -> None:
    texts, found = run(StopStrings(stop, include), split(text, cuts))
    assert ("".join(texts), found) == oracle(text, stop, include)


@given(TEXT, STOPS)
def test_holds_back_no_more_than_it_must(text: str, stop: tuple[str, ...]) -> None:
    stops = StopStrings(stop)
    out = ""
    for end in range(1, len(text) + 1):
        piece, found = stops.push(text[end - 1])
        out += piece
        if found is not None:
            break
        beginnings = [s[:k] for s in stop for k in range(1, len(s))]
        held = max((b for b in beginnings if text[:end].endswith(b)), key=len, default="")
        assert out + held == text[:end]


def test_what_only_looked_like_a_stop_string_comes_out() -> None:
    stops = StopStrings(("END",))
    assert [stops.push(piece)[0] for piece in ("a E", "N", "N", "EN")] == ["a ", "", "ENN", ""]
    assert stops.flush() == "EN"
    assert stops.flush() == ""


def test_the_match_that_is_complete_first_wins() -> None:
    # "bc" is complete while "abcd" would still have to wait for a token.
    assert StopStrings(("abcd", "bc")).push("xabcd") == ("xa", "bc")


def test_of_two_complete_at_once_the_longest_wins() -> None:
    assert StopStrings(("c", "abc")).push("xabcy") == ("x", "abc")


@pytest.mark.parametrize(("include", "text"), [(True, "one\n\n"), (False, "one")])
def test_the_text_after_a_stop_string_is_dropped(include: bool, text: str) -> None:
    assert StopStrings(("\n\n",), include).push("one\n\ntwo") == (text, "\n\n")


def test_a_match_that_may_not_stop_is_text_but_its_end_may_begin_another() -> None:
    stops = StopStrings(("aa",))
    assert stops.push("xaa", may_stop=False) == ("xa", None)
    assert stops.push("a") == ("", "aa")


def test_text_before_may_stop_may_begin_a_match() -> None:
    stops = StopStrings(("END",))
    assert stops.push("x EN", may_stop=False) == ("x ", None)
    assert stops.push("D") == ("", "END")


def test_no_stop_strings_hold_nothing() -> None:
    stops = StopStrings(())
    assert stops.push("abc") == ("abc", None)
    assert stops.flush() == ""
