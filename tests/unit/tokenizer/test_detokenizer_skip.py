"""A sequence that goes on with ids of another: its text begins where theirs ends."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders.sample_tokenizers import EOS_ID, byte_tokenizer
from tokenizer_service.text.detokenizer import Detokenizer, new_detokenizer
from tokenizer_service.text.tokenizer import Tokenizer
from tokenizer_service.text.window_detokenizer import WindowDetokenizer

TOKENIZER = Tokenizer(byte_tokenizer())

texts = st.text(max_size=80).map(lambda text: list(text.encode()))
any_bytes = st.lists(st.integers(0, 255) | st.sampled_from([EOS_ID, 259, 0xF0, 0x9F]), max_size=90)
both = pytest.mark.parametrize(
    "make", [new_detokenizer, WindowDetokenizer], ids=["bytes", "window"]
)


@both
@given(texts | any_bytes, texts | any_bytes)
def test_both_texts_joined_are_that_of_all_ids(
    make: Callable[..., Detokenizer], before: list[int], after: list[int]
) -> None:
    whole = make(TOKENIZER)
    begun = whole.push(before)
    branch = make(TOKENIZER)
    branch.skip(before)
    assert branch.push(after) + branch.flush() == whole.push(after) + whole.flush()
    assert TOKENIZER.decode([*before, *after]).startswith(begun)


@both
def test_a_split_character_comes_whole(make: Callable[..., Detokenizer]) -> None:
    branch = make(TOKENIZER)
    branch.skip([*b"a" * 500, *"😀".encode()[:3]])
    assert branch.push(["😀".encode()[3], EOS_ID, ord("!")]) == "😀!"
