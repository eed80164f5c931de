import pytest

from folovllm.errors import InvalidRequestError
from folovllm.sampling_params import SamplingParams
from support.builders.sample_tokenizers import QWEN3, byte_tokenizer, needs_qwen3
from tokenizer_service.text.bad_words import resolve_bad_words
from tokenizer_service.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(byte_tokenizer())
SPACE = 32


@pytest.mark.parametrize(
    ("word", "sequences"),
    [
        ("hello", [[259]]),  # after a space it is [SPACE, 259], which that forbids too
        ("w", [[119], [260]]),
        (" w", [[119], [260]]),
        ("wo", [[119, 111], [260, 111]]),
        (" ", [[SPACE]]),
        ("\n", [[10]]),
        ("é", [[195, 169]]),
    ],
)
def test_a_word_is_forbidden_with_and_without_a_space(
    word: str, sequences: list[list[int]]
) -> None:
    resolved = resolve_bad_words(SamplingParams(bad_words=(word,)), TOKENIZER)
    assert [list(ids) for ids in resolved.bad_words_token_ids] == sequences
    assert resolved.bad_words == (word,)
    assert resolve_bad_words(resolved, TOKENIZER) == resolved


def test_without_bad_words_nothing_changes() -> None:
    params = SamplingParams(bad_words_token_ids=((1, 2),))
    assert resolve_bad_words(params, TOKENIZER) is params


def test_too_many_sequences_are_refused_by_name() -> None:
    many = tuple((number,) for number in range(512))
    params = SamplingParams(bad_words=("hello world",), bad_words_token_ids=many)
    with pytest.raises(InvalidRequestError) as refused:
        resolve_bad_words(params, TOKENIZER)
    assert refused.value.field == "sampling_params.bad_words_token_ids"


@needs_qwen3
def test_words_of_a_real_vocabulary() -> None:
    tokenizer = Tokenizer.from_folder(QWEN3)
    resolved = resolve_bad_words(SamplingParams(bad_words=("river", "Zanzibar")), tokenizer)
    texts = [tokenizer.decode(ids) for ids in resolved.bad_words_token_ids]
    assert texts == ["river", " river", "Zanzibar", " Zanzibar"]
