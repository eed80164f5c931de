from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from support.builders.sample_tokenizers import QWEN3, THINK, byte_tokenizer, needs_qwen3
from tokenizer_service.text.detokenizer import Detokenizer, new_detokenizer
from tokenizer_service.text.tokenizer import Tokenizer
from tokenizer_service.text.window_detokenizer import WindowDetokenizer

TOKENIZER = Tokenizer(byte_tokenizer())
EMOJI = [*"😀".encode()]

# Ids of any kind: bytes, merges, special and added tokens, and ids that only the model has.
ANY_IDS = st.lists(st.integers(0, 270) | st.sampled_from([0xF0, 0x9F, 0x98, 0x80, 0xE4, 0xBD]))
TEXT_IDS = st.text().map(lambda text: [*text.encode()])
CUTS = st.lists(st.integers(0, 200), max_size=8)


Make = Callable[..., Detokenizer]

both = pytest.mark.parametrize(
    "make", [new_detokenizer, WindowDetokenizer], ids=["bytes", "window"]
)


def split(token_ids: list[int], cuts: list[int]) -> list[list[int]]:
    bounds = sorted({0, len(token_ids), *(min(cut, len(token_ids)) for cut in cuts)})
    return [token_ids[start:end] for start, end in pairwise(bounds)]


def detokenize(detokenizer: Detokenizer, pieces: list[list[int]]) -> list[str]:
    return [*(detokenizer.push(piece) for piece in pieces), detokenizer.flush()]


@both
@given(ANY_IDS | TEXT_IDS, CUTS, st.booleans())
def test_pieces_joined_equal_the_whole(
    make: Make, ids: list[int], cuts: list[int], skip: bool
) -> None:
    texts = detokenize(make(TOKENIZER, skip), split(ids, cuts))
    assert "".join(texts) == TOKENIZER.decode_known(ids, skip)


@both
@given(ANY_IDS | TEXT_IDS, st.booleans())
def test_one_by_one_equals_the_whole(make: Make, ids: list[int], skip: bool) -> None:
    texts = detokenize(make(TOKENIZER, skip), [[i] for i in ids])
    assert "".join(texts) == TOKENIZER.decode_known(ids, skip)


@both
@given(st.text(), CUTS)
def test_no_piece_of_good_text_holds_half_a_character(
    make: Make, text: str, cuts: list[int]
) -> None:
    # Whatever is out at any time is a beginning of the text, character by character.
    pieces = split([*text.encode()], cuts)
    detokenizer = make(TOKENIZER)
    out = ""
    for piece in pieces:
        out += detokenizer.push(piece)
        assert text.startswith(out)
    assert out + detokenizer.flush() == text


@both
@given(st.binary(min_size=40, max_size=400), st.booleans())
def test_long_runs_of_invalid_bytes(make: Make, data: bytes, high_only: bool) -> None:
    ids = [byte | 0x80 if high_only else byte for byte in data]
    texts = detokenize(make(TOKENIZER), [[i] for i in ids])
    assert "".join(texts) == bytes(ids).decode(errors="replace")


@both
def test_an_emoji_over_four_tokens_comes_whole(make: Make) -> None:
    assert detokenize(make(TOKENIZER), [[i] for i in EMOJI]) == ["", "", "", "😀", ""]


@both
def test_an_incomplete_character_comes_at_the_end(make: Make) -> None:
    assert detokenize(make(TOKENIZER), [[*b"ab"], EMOJI[:3]]) == ["ab", "", "\ufffd"]


@both
def test_a_skipped_special_token_does_not_part_a_character(make: Make) -> None:
    texts = detokenize(make(TOKENIZER), [EMOJI[:2], [261], EMOJI[2:]])
    assert texts == ["", "", "😀", ""]


@both
def test_flush_starts_afresh(make: Make) -> None:
    detokenizer = make(TOKENIZER)
    detokenizer.push([*b"ab", 0xF0])
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""
    assert detokenizer.push([*b"cd"]) == "cd"


@both
def test_an_id_beyond_the_vocabulary_has_no_text(make: Make) -> None:
    size = TOKENIZER.vocab_size
    assert make(TOKENIZER, False).push([size - 1, size, size + 1]) == THINK


@both
@pytest.mark.parametrize(
    "ids",
    [[*b"ab"] * 20_000, [0xFF] * 40_000, [0xF0, 0x9F, 0x98] * 13_000, [261] * 40_000, [262]],
    ids=["text", "invalid", "incomplete", "special", "one"],
)
def test_the_work_for_a_token_does_not_grow(make: Make, ids: list[int]) -> None:
    class Counting(Tokenizer):
        num_decoded = 0

        def decode_known(self, token_ids: object, skip_special_tokens: bool = True) -> str:
            assert isinstance(token_ids, list)
            self.num_decoded += len(token_ids)
            return super().decode_known(token_ids, skip_special_tokens)

    tokenizer = Counting(byte_tokenizer())
    texts = detokenize(make(tokenizer), [[i] for i in ids])
    assert tokenizer.num_decoded < 100 * len(ids)  # the window's bound, a few times over
    assert "".join(texts) == tokenizer.decode_known(ids)


def sentencepiece_tokenizer() -> Tokenizer:
    """As Llama 2 has it: words begin with a mark, bytes are tokens, the first space is dropped."""
    words = ["▁Hello", "▁world", "▁", "a", "你"]
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab |= {word: 256 + i for i, word in enumerate(words)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(backend)


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([256, 257, 257], "Hello world world"),
        ([258, 256, 258, 258, 257], " Hello   world"),
        ([256, *"😀你é".encode(), 257], "Hello😀你é world"),
        ([256, 0xF0, 0x9F, 257], "Hello\ufffd\ufffd world"),
        ([256, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], "Hello" + "\ufffd" * 5),
        ([0xFF] * 100, "\ufffd" * 100),
        ([*[0xFF] * 26, 256, 260, 258], "\ufffd" * 26 + " Hello你 "),
    ],
)
def test_a_decoder_that_looks_at_the_token_before(ids: list[int], text: str) -> None:
    tokenizer = sentencepiece_tokenizer()
    assert tokenizer.decode(ids) == text
    assert "".join(detokenize(new_detokenizer(tokenizer), [[i] for i in ids])) == text


def test_byte_fallback_stays_bounded_where_pieces_and_whole_differ() -> None:
    # As a whole one bad byte spoils all bytes next to it; what is out already stays as it is.
    detokenizer = new_detokenizer(sentencepiece_tokenizer())
    texts = [detokenizer.push([i]) for i in [0xFF, *"你".encode() * 30, 259]]
    assert texts[-1].endswith("a")
    assert detokenizer.flush() == ""


@cache
def qwen3() -> Tokenizer:
    return Tokenizer.from_folder(QWEN3)


@both
@needs_qwen3
def test_qwen3_streams_every_script(make: Make) -> None:
    tokenizer = qwen3()
    text = "naïve café 👩‍👩‍👧‍👦 你好，世界 🏳️‍🌈 नमस्ते \u0301 \U0001f9ff\u200d x"
    token_ids = tokenizer.encode(text)
    texts = detokenize(make(tokenizer), [[i] for i in token_ids])
    assert "".join(texts) == tokenizer.decode(token_ids)
    assert not any("\ufffd" in piece for piece in texts)


@both
@needs_qwen3
@given(st.lists(st.integers(0, 151_935), max_size=60), CUTS)
def test_qwen3_random_ids_equal_the_whole(make: Make, ids: list[int], cuts: list[int]) -> None:
    texts = detokenize(make(qwen3()), split(ids, cuts))
    assert "".join(texts) == qwen3().decode_known(ids)
