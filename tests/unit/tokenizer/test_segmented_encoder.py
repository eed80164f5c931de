"""Encoding in segments gives the ids of the whole, and encodes what is long only once."""

import re
import sys
from array import array
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from folovllm.model_files import DEMO_MODEL
from support.builders.sample_tokenizers import (
    EOS,
    IM_END,
    QWEN3,
    THINK,
    byte_tokenizer,
    needs_qwen3,
)
from tokenizer_service.text.segmented_encoder import MIN_SEGMENT, SegmentedEncoder, segment_border
from tokenizer_service.text.tokenizer import Tokenizer

LONG = "long text, " * 30
OTHER = "another one " * 30


def sample_backend() -> tokenizers.Tokenizer:
    """The sample with Qwen's normalizer, and with added tokens that begin each other."""
    backend = byte_tokenizer()
    backend.normalizer = normalizers.NFC()
    for text in (THINK, "<|im", "<|im_end|>>", "é"):
        # By default the library normalizes tokens that are not special.
        backend.add_tokens([AddedToken(text, special=False, normalized=False)])
    return backend


@cache
def sample() -> Tokenizer:
    return Tokenizer(sample_backend())


@cache
def demo() -> Tokenizer:
    return Tokenizer.from_folder(DEMO_MODEL)


@cache
def qwen3() -> Tokenizer:
    return Tokenizer.from_folder(QWEN3)


# What stands at borders: added tokens, what only begins one, and characters that NFC changes.
BORDERS = st.sampled_from(
    [EOS, IM_END, THINK, "<|im_start|>", "<think>", "<|im", "<|im_end|", "<|im_end|>>", "<", "é"]
    + ["\u0301", "e", "e\u0301", "\u1100", "\u1161", "\u11a8", "ﬁ", "\u0344", " ", "\n", "\u2028"]
)
FILLINGS = st.text(max_size=6) | st.sampled_from([LONG, OTHER, "e\u0301 " * 200, "\n" * 300])
TEXTS = st.lists(BORDERS | FILLINGS | st.text(min_size=2, max_size=4).map(lambda t: t * 130)).map(
    "".join
)


@pytest.mark.parametrize("tokenizer", [sample, demo, pytest.param(qwen3, marks=needs_qwen3)])
@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_segments_have_the_ids_of_the_whole(tokenizer: Callable[[], Tokenizer], text: str) -> None:
    whole = tokenizer().encode_batch([text])[0]
    assert tokenizer().encode(text) == whole
    assert tokenizer().encode(text) == whole  # now from what is kept


class Recorder:
    """Encodes each character as its code point and records the texts."""

    def __init__(self, max_cached_bytes: int = 2**20) -> None:
        self.encoded: list[str] = []
        self.encoder = SegmentedEncoder(self._encode, re.compile("<a>|<b>"), max_cached_bytes)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        self.encoded += texts
        return [[*map(ord, text)] for text in texts]

    def encode(self, text: str, keep: bool = True) -> list[str]:
        """What had to be encoded for a text."""
        self.encoded = []
        assert self.encoder.encode(text, keep) == [*map(ord, text)]
        return self.encoded


def test_only_what_is_new_is_encoded() -> None:
    recorder = Recorder()
    assert recorder.encode(f"<a>{LONG}<b>x<a>y<b>") == ["<a>", LONG, "<b>x<a>y<b>"]
    assert recorder.encode(f"<a>{LONG}<b>x<a>{OTHER}") == ["<a>", "<b>x<a>", OTHER]
    assert recorder.encode(f"{LONG}<a>{OTHER}") == ["<a>"]
    assert recorder.encode(LONG) == []
    assert recorder.encode("") == []


def test_what_is_not_to_be_kept_is_found_but_not_cached() -> None:
    recorder = Recorder()
    recorder.encode(LONG)
    for _ in range(2):
        assert recorder.encode(f"<a>{LONG}<b>{OTHER}", keep=False) == ["<a>", "<b>", OTHER]


def test_short_segments_are_not_cached() -> None:
    recorder = Recorder()
    text = "a" * (MIN_SEGMENT - 1)
    assert recorder.encode(text) == recorder.encode(text) == [text]
    longer = text + "a"
    assert [recorder.encode(longer), recorder.encode(longer)] == [[longer], []]


def test_the_least_recently_used_is_evicted_first() -> None:
    texts = [character * 1000 for character in "abc"]
    num_bytes = sum(map(sys.getsizeof, (texts[0], array("I", [*range(1000)]))))
    recorder = Recorder(max_cached_bytes=2 * num_bytes)
    for text in texts[:2]:
        recorder.encode(text)
    assert recorder.encode(texts[0]) == []
    assert recorder.encode(texts[2]) == [texts[2]]
    assert recorder.encode(texts[0]) == recorder.encode(texts[2]) == []
    assert recorder.encode(texts[1]) == [texts[1]]
    assert recorder.encode("d" * 20_000) == recorder.encode("d" * 20_000)  # too long to be cached


def added(**flags: bool) -> Callable[[tokenizers.Tokenizer], object]:
    return lambda backend: backend.add_tokens([AddedToken("<x>", **flags)])


@pytest.mark.parametrize(
    "change",
    [
        added(lstrip=True, normalized=False),
        added(rstrip=True, normalized=False),
        added(single_word=True, normalized=False),
        added(normalized=True),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.ByteLevel()),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda backend: setattr(backend, "normalizer", normalizers.Prepend("x")),
        lambda backend: setattr(
            backend, "normalizer", normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])
        ),
        lambda backend: setattr(
            backend,
            "post_processor",
            TemplateProcessing(single=f"{EOS} $A", special_tokens=[(EOS, 261)]),
        ),
        lambda backend: setattr(backend, "encode_special_tokens", True),
    ],
)
def test_segments_that_depend_on_each_other_are_not_parted(
    change: Callable[[tokenizers.Tokenizer], object],
) -> None:
    backend = sample_backend()
    assert segment_border(backend) is not None
    change(backend)
    assert segment_border(backend) is None
