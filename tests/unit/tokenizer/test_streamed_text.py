"""Streamed text is the whole decode up to the first stop string: any ids, splits, stop strings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from folovllm.model_files import DEMO_MODEL
from folovllm.outputs import CompletionOutput, FinishReason
from folovllm.sampling_params import SamplingParams
from support.builders.sample_tokenizers import QWEN3, byte_tokenizer, needs_qwen3
from tokenizer_service.text.output_processor import OutputProcessor
from tokenizer_service.text.tokenizer import Tokenizer

SEQUENCES = [
    *("👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇯🇵", "1️⃣"),  # several code points that are one picture
    *("e\u0301\u0323", "q\u0307\u0323", "नमस्ते", "각", "Z͑ͫ̓ͪ̂ͫ̽͏"),  # combining marks
    *("שלום עולם", "مرحبا \u202eabc\u202c", "\u200f\u200e"),  # right to left
    *("\U0001f9ff\u200d", "𝔘𝔫𝔦", "𓀀", "\U000e0041", "\U0010ffff", "\x00", "\ufffd", "\ufeff"),
    *("<|im_end|>", "<|im_start|>", "</think>", "<|im_", " hello", "hell", "\r\n\n", "   "),
]
# What a model may write that is no UTF-8: cut off, overlong, surrogates, beyond the last plane.
INVALID = [
    *(b"\xf0\x9f\x98", b"\xe4\xbd", b"\xc3", b"\x80", b"\xbf\xbf", b"\xff", b"\xfe"),
    *(b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80"),
]
PARTS = st.lists(
    st.text(max_size=12)
    | st.sampled_from(SEQUENCES)
    | st.sampled_from(INVALID)
    | st.binary(max_size=6)
    | st.lists(st.integers(0, 2**18), max_size=4),
    max_size=8,
)


@dataclass(frozen=True)
class Case:
    """What is streamed, and how; numbers are taken modulo what there is."""

    parts: list[str | bytes | list[int]]
    cuts: list[int]
    stops: list[str | tuple[int, int]]
    """A text, or the start and length of one in the output."""
    include_stop: bool
    skip_special_tokens: bool


CASES = st.builds(
    Case,
    PARTS,
    st.lists(st.integers(0, 100), max_size=8),
    st.lists(
        st.tuples(st.integers(0, 200), st.integers(1, 8))
        | st.text(min_size=1, max_size=4)
        | st.sampled_from(SEQUENCES),
        max_size=4,
    ),
    st.booleans(),
    st.booleans(),
)


@cache
def sample() -> Tokenizer:
    return Tokenizer(byte_tokenizer())


@cache
def demo() -> Tokenizer:
    return Tokenizer.from_folder(DEMO_MODEL)


@cache
def qwen3() -> Tokenizer:
    return Tokenizer.from_folder(QWEN3)


def ids_of(tokenizer: Tokenizer, part: str | bytes | list[int]) -> list[int]:
    if isinstance(part, str):
        return tokenizer.encode(part)
    if isinstance(part, bytes):
        assert tokenizer.token_bytes is not None
        return [tokenizer.token_bytes.index(bytes([byte])) for byte in part]
    return [i % (tokenizer.vocab_size + 10) for i in part]


def stop_strings(case: Case, whole: str) -> tuple[str, ...]:
    found = []
    for stop in case.stops:
        if not isinstance(stop, str):
            start = stop[0] % (len(whole) + 1)
            stop = whole[start : start + stop[1]]
        found += [stop] if stop else []
    return tuple(found)


def expected(whole: str, stops: Sequence[str], include: bool) -> tuple[str, str | None]:
    """The text up to where a stop string is first complete, and the longest such."""
    end = min((whole.find(stop) + len(stop) for stop in stops if stop in whole), default=None)
    if end is None:
        return whole, None
    stop = max((stop for stop in stops if whole[:end].endswith(stop)), key=len)
    return whole[: end if include else end - len(stop)], stop


def check(tokenizer: Tokenizer, case: Case) -> None:
    ids = [i for part in case.parts for i in ids_of(tokenizer, part)]
    whole = tokenizer.decode_known(ids, case.skip_special_tokens)
    params = SamplingParams(
        stop=stop_strings(case, whole),
        include_stop_str_in_output=case.include_stop,
        skip_special_tokens=case.skip_special_tokens,
    )
    text, stop = expected(whole, params.stop, case.include_stop)
    processor = OutputProcessor(tokenizer, params)
    out, finished = "", False
    for output in stream(processor, ids, case.cuts):
        out += output.text
        # What is out is never taken back: no half a character, no beginning of a stop string.
        assert text.startswith(out)
        if output.finished():
            finished = True
            assert output.stop_reason == stop
    assert out == text
    assert finished


def stream(processor: OutputProcessor, ids: list[int], cuts: list[int]) -> list[CompletionOutput]:
    """The outputs for the ids in pieces and the final message of the engine."""
    bounds = sorted({0, len(ids), *(cut % (len(ids) + 1) for cut in cuts)})
    deltas = [CompletionOutput("r", 0, token_ids=ids[a:b]) for a, b in pairwise(bounds)]
    deltas.append(CompletionOutput("r", 0, finish_reason=FinishReason.LENGTH))
    return [output for delta in deltas if (output := processor.process(delta)[0]) is not None]


tokenizers = pytest.mark.parametrize(
    "tokenizer",
    [sample, demo, pytest.param(qwen3, marks=needs_qwen3)],
)


@tokenizers
@settings(max_examples=500, deadline=None)
@given(case=CASES)
def test_deltas_joined_are_the_whole_text(tokenizer: Callable[[], Tokenizer], case: Case) -> None:
    check(tokenizer(), case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@tokenizers
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=CASES)
def test_deltas_joined_are_the_whole_text_in_many_cases(
    tokenizer: Callable[[], Tokenizer], case: Case
) -> None:
    check(tokenizer(), case)
