"""Which tokens a text continuation is scored by; the tokenizer has "hello" and " w" as tokens."""

import os.path
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folovllm.errors import InvalidRequestError
from folovllm.score import ContinuationScore, ScoreOutput
from support.builders.sample_tokenizers import byte_tokenizer
from tokenizer_service.text.score_encoding import EncodedScore, encode_score
from tokenizer_service.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(byte_tokenizer())
HELLO, SPACE_W = 259, 260


def encode(prompt: str | list[int], *continuations: str | list[int]) -> EncodedScore:
    return encode_score(TOKENIZER, prompt, continuations, 100)


def expected(prompt: list[int], continuations: list[list[int]]) -> EncodedScore:
    """With continuations that have none of the prompts."""
    rests = [array("I", ids) for ids in continuations]
    return EncodedScore(array("I", prompt), rests, [0 for _ in rests])


def scored(encoded: EncodedScore) -> list[list[int]]:
    return [
        ids[count:].tolist()
        for ids, count in zip(encoded.continuations, encoded.num_prompt_tokens, strict=True)
    ]


def test_prompt_and_continuation_are_encoded_as_one() -> None:
    encoded = encode("ab", " w", "c")
    assert encoded == expected([*b"ab"], [[SPACE_W], [*b"c"]])


@pytest.mark.parametrize("prompt", ["hello ", "hello  ", "hello\n"])
def test_white_space_at_the_prompts_end_belongs_to_the_continuation(prompt: str) -> None:
    encoded = encode(prompt, "w", "x")
    assert encoded.prompt_token_ids.tolist() == [HELLO]
    assert scored(encoded) == [TOKENIZER.encode(prompt + end)[1:] for end in "wx"]


def test_a_token_that_spans_both_is_scored_and_splits_no_other_prompt() -> None:
    encoded = encode("a hell", "o", "s", [5])
    # "hello" is one token; the others keep "hell" as prompt.
    hell = TOKENIZER.encode("hell")
    assert scored(encoded) == [[*TOKENIZER.encode(" hello")[1:]], [*b"s"], [5]]
    assert encoded.prompt_token_ids.tolist() == [*b"a", 0x20]
    assert encoded.num_prompt_tokens == [0, len(hell), len(hell)]
    output = ScoreOutput(
        "r",
        tuple(
            ContinuationScore(tuple(ids), tuple(-1.0 for _ in ids), tuple(1 for _ in ids))
            for ids in encoded.continuations
        ),
    )
    assert [list(s.token_ids) for s in encoded.scores(output).continuations] == scored(encoded)


def test_ids_are_taken_as_they_are() -> None:
    assert encode([1, 2], [3], " w") == expected([1, 2], [[3], [SPACE_W]])
    assert encode("ab ", [3]) == expected([*b"ab "], [[3]])


@pytest.mark.parametrize(
    ("prompt", "continuations", "field"),
    [
        ("", ["a"], "prompt"),
        ([], ["a"], "prompt"),
        ("a" * 100, ["a"], "prompt"),
        ("a", ["b", ""], "continuations[1]"),
        ([1], [[]], "continuations[0]"),
        ("hell", ["o"], "continuations[0]"),
        (" ", ["x", "w"], "continuations[0]"),
    ],
)
def test_what_cannot_be_scored_is_named(
    prompt: str | list[int], continuations: list[str | list[int]], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        encode(prompt, *continuations)
    assert refused.value.field == field


@settings(max_examples=300, deadline=None)
@given(
    prompt=st.text("hello w", min_size=1, max_size=8) | st.lists(st.integers(0, 5), min_size=1),
    continuations=st.lists(
        st.text("hello w", min_size=1, max_size=6) | st.lists(st.integers(0, 5), min_size=1),
        min_size=1,
        max_size=5,
    ),
)
def test_what_is_kept_of_each_is_put_together_again(
    prompt: str | list[int], continuations: list[str | list[int]]
) -> None:
    try:
        encoded = encode(prompt, *continuations)
    except InvalidRequestError:
        return
    for index, continuation in enumerate(continuations):
        whole = [*encoded.prompt_token_ids, *encoded.continuations[index]]
        alone = encode(prompt, continuation)
        assert whole == [*alone.prompt_token_ids, *alone.continuations[0]]
        assert scored(encoded)[index] == scored(alone)[0]
    ends = [
        [*encoded.prompt_token_ids, *ids[:count]]
        for ids, count in zip(encoded.continuations, encoded.num_prompt_tokens, strict=True)
    ]
    assert list(encoded.prompt_token_ids) == os.path.commonprefix(ends), "no less is shared"


def test_what_is_scored_takes_no_conversations_place_in_the_cache() -> None:
    kept: list[bool] = []

    class Watched(Tokenizer):
        def encode(
            self, text: str, add_special_tokens: bool = True, *, keep: bool = True
        ) -> list[int]:
            kept.append(keep)
            return super().encode(text, add_special_tokens, keep=keep)

    encode_score(Watched(byte_tokenizer()), "ab", [" w", "c"], 100)
    assert kept == [True, True, False, False]
