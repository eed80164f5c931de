from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.outputs import (
    CompletionOutput,
    FinishReason,
    RequestInfo,
    RequestMetrics,
    RequestOutput,
    Usage,
)
from folovllm.sampling_params import SamplingParams
from support.builders.sample_tokenizers import EOS_ID, byte_tokenizer
from tokenizer_service.text.output_processor import OutputProcessor
from tokenizer_service.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(byte_tokenizer())
METRICS = RequestMetrics(queue=0.5)


def delta(data: bytes | list[int] = b"", index: int = 0) -> CompletionOutput:
    return CompletionOutput("r", index, token_ids=list(data))


def final(
    data: bytes | list[int] = b"",
    reason: FinishReason = FinishReason.LENGTH,
    stop: int | str | None = None,
    index: int = 0,
) -> CompletionOutput:
    output = delta(data, index)
    output.finish_reason, output.stop_reason = reason, stop
    output.usage = Usage(prompt_tokens=3, completion_tokens=99, cached_tokens=2)
    output.metrics = METRICS
    return output


def run(
    deltas: list[CompletionOutput], params: SamplingParams
) -> tuple[list[CompletionOutput], list[int]]:
    """Every output, and the indexes to abort in order."""
    processor = OutputProcessor(TOKENIZER, params)
    outputs: list[CompletionOutput] = []
    aborts: list[int] = []
    for message in deltas:
        output, stops = processor.process(message)
        outputs += [] if output is None else [output]
        aborts += [message.index] if stops else []
    assert sorted(o.index for o in outputs if o.finished()) == [*range(params.n)]
    return outputs, aborts


def test_without_detokenize_there_are_token_ids_alone() -> None:
    outputs, aborts = run([delta(b"he"), final(b"y")], SamplingParams(detokenize=False))
    assert [(o.text, o.token_ids) for o in outputs] == [("", [*b"he"]), ("", [*b"y"])]
    assert outputs[-1].finish_reason is FinishReason.LENGTH and aborts == []


def test_text_and_token_ids_stream_together() -> None:
    outputs, aborts = run([delta(b"he"), final(b"y")], SamplingParams())
    assert [(o.text, o.token_ids, o.finish_reason) for o in outputs] == [
        ("he", [*b"he"], None),
        ("y", [*b"y"], FinishReason.LENGTH),
    ]
    assert outputs[1].usage == Usage(prompt_tokens=3, completion_tokens=99, cached_tokens=2)
    assert outputs[1].metrics == METRICS
    assert aborts == []


def test_token_ids_go_out_while_their_text_is_held() -> None:
    emoji = "😀".encode()
    outputs, _ = run([delta(emoji[:2]), delta(emoji[2:]), final()], SamplingParams())
    assert [(o.text, o.token_ids) for o in outputs] == [
        ("", [*emoji[:2]]),
        ("😀", [*emoji[2:]]),
        ("", []),
    ]


@pytest.mark.parametrize("reason", list(FinishReason))
def test_a_final_message_flushes_what_is_held(reason: FinishReason) -> None:
    params = SamplingParams(stop=("END",))
    outputs, aborts = run([delta(b"a EN"), final([0xF0, EOS_ID], reason)], params)
    assert [o.text for o in outputs] == ["a ", "EN\ufffd"]
    assert (outputs[1].finish_reason, outputs[1].stop_reason) == (reason, None)
    assert aborts == []


def test_a_stop_string_ends_text_and_token_ids() -> None:
    params = SamplingParams(stop=("END",))
    deltas = [delta(b"one E"), delta(b"ND two"), delta(b" three"), final(reason=FinishReason.ABORT)]
    outputs, aborts = run(deltas, params)
    assert [(o.text, bytes(o.token_ids)) for o in outputs] == [
        ("one ", b"one E"),
        ("", b"ND"),
        ("", b""),
    ]
    assert [o.finish_reason for o in outputs] == [None, None, FinishReason.STOP]
    assert outputs[2].stop_reason == "END"
    assert outputs[2].usage == Usage(prompt_tokens=3, completion_tokens=7, cached_tokens=2)
    assert outputs[2].metrics == METRICS
    assert aborts == [0]


def test_a_stop_string_may_stay_in_the_text() -> None:
    params = SamplingParams(stop=("END",), include_stop_str_in_output=True)
    outputs, _ = run([delta(b"one END two"), final(reason=FinishReason.ABORT)], params)
    assert RequestOutput.join(outputs).outputs[0].text == "one END"


def test_the_last_token_may_go_on_after_the_stop_string() -> None:
    outputs, _ = run([delta([259, 263]), final()], SamplingParams(stop=("ell",)))
    assert (outputs[0].text, outputs[0].token_ids) == ("h", [259])


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.STOP])
def test_a_stop_string_in_the_engines_last_message_wins(reason: FinishReason) -> None:
    outputs, aborts = run([final([*b"one END", EOS_ID], reason)], SamplingParams(stop=("END",)))
    (output,) = outputs
    assert (output.text, bytes(output.token_ids)) == ("one ", b"one END")
    assert (output.finish_reason, output.stop_reason) == (FinishReason.STOP, "END")
    assert output.usage is not None and output.usage.completion_tokens == 7
    assert aborts == []


def test_an_engine_that_ended_before_the_abort_came_changes_nothing() -> None:
    deltas = [delta(b"END"), final(b"more", FinishReason.STOP, 5)]
    outputs, aborts = run(deltas, SamplingParams(stop=("END",)))
    assert (outputs[-1].finish_reason, outputs[-1].stop_reason) == (FinishReason.STOP, "END")
    assert (outputs[-1].text, outputs[-1].token_ids) == ("", [])
    assert aborts == [0]


def test_nothing_follows_a_final_message() -> None:
    outputs, _ = run([final(b"a"), delta(b"b"), final(b"c")], SamplingParams())
    assert [o.text for o in outputs] == ["a"]


@pytest.mark.parametrize(
    ("min_tokens", "text"),
    [(0, ""), (2, ""), (3, "abcx"), (4, "abcx"), (5, "abcx"), (6, "abcx"), (7, "abcxabcy")],
)
def test_a_stop_string_must_be_complete_after_min_tokens(min_tokens: int, text: str) -> None:
    # The matches are complete with the 3rd and the 7th token.
    params = SamplingParams(stop=("abc",), min_tokens=min_tokens)
    outputs, _ = run([delta(b"ab"), delta(b"cx"), delta(b"abcy"), final()], params)
    assert RequestOutput.join(outputs).outputs[0].text == text


@pytest.mark.parametrize(("include", "text"), [(False, "ab"), (True, "abc")])
def test_a_stop_token_has_no_text_unless_asked_for(include: bool, text: str) -> None:
    params = SamplingParams(stop_token_ids=(99,), include_stop_str_in_output=include)
    outputs, _ = run([final(b"abc", FinishReason.STOP, 99)], params)
    assert (outputs[0].text, outputs[0].token_ids) == (text, [*b"abc"])
    assert outputs[0].stop_reason == 99


def test_a_last_message_without_token_ids() -> None:
    outputs, _ = run([delta(b"ab"), final(reason=FinishReason.STOP)], SamplingParams())
    assert [o.text for o in outputs] == ["ab", ""]


def test_special_tokens_show_where_asked_for() -> None:
    params = SamplingParams(skip_special_tokens=False)
    outputs, _ = run([final([*b"a", EOS_ID, *b"b"])], params)
    assert outputs[0].text == "a<|endoftext|>b"


def test_two_continuations_do_not_know_of_each_other() -> None:
    params = SamplingParams(n=2, stop=("END",))
    deltas = [
        delta(b"one E", index=1),
        delta(b"two E", index=0),
        delta(b"ND", index=1),
        final(b"ND?", index=0),
        final(reason=FinishReason.ABORT, index=1),
    ]
    outputs, aborts = run(deltas, params)
    joined = RequestOutput.join(outputs).outputs
    assert [(o.text, o.stop_reason) for o in joined] == [("two ", "END"), ("one ", "END")]
    assert aborts == [1]


def test_the_text_of_deltas_that_are_not_final_may_be_taken_alone() -> None:
    emoji = "😀".encode()
    processor = OutputProcessor(TOKENIZER, SamplingParams(n=2))
    texts = [
        processor.text_of(index, ids) for index, ids in ((0, emoji[:2]), (1, b"a"), (0, emoji[2:]))
    ]
    assert texts == ["", "a", "😀"]
    output, _ = processor.process(final(b"b"))
    assert output is not None
    assert (output.text, output.token_ids) == ("b", [*b"b"])
    processor = OutputProcessor(TOKENIZER, SamplingParams(stop=("b",)))
    assert processor.text_of(0, b"ab") is None
    output, _ = processor.process(final(b"ab"))
    assert output is not None
    assert output.text == "a"


def test_an_empty_delta_is_not_sent_unless_it_carries_info() -> None:
    with_info = delta()
    with_info.info = RequestInfo(SamplingParams())
    outputs, _ = run([with_info, delta(), delta([]), final(b"a")], SamplingParams())
    assert [(o.info, o.text) for o in outputs] == [(with_info.info, ""), (None, "a")]


def with_logprobs(data: bytes, *logprobs: float, total: float) -> CompletionOutput:
    output = delta(data)
    output.logprobs = [PositionLogprobs(Logprob(99, each, 1)) for each in logprobs]
    output.cumulative_logprob = total
    return output


def test_logprobs_end_with_the_token_ids() -> None:
    message = with_logprobs(b"aXb", -1, -2, -4, total=-17.0)
    deltas = [with_logprobs(b"c", -10, total=-10.0), message, final(reason=FinishReason.ABORT)]
    outputs, _ = run(deltas, SamplingParams(stop=("X",)))
    assert outputs[1].logprobs == message.logprobs[:2]
    assert [each.cumulative_logprob for each in outputs] == [-10.0, -13.0, None]
    assert RequestOutput.join(outputs).outputs[0].cumulative_logprob == -13.0


@pytest.mark.parametrize("num_received", [0, 1, 2])
def test_the_sum_of_logprobs_at_a_stop_string_is_the_same_in_any_pieces(num_received: int) -> None:
    logprobs = (-0.1, -0.7, -1e-9, -1e6)
    total = -0.1 - 0.7 - 1e-9
    processor = OutputProcessor(TOKENIZER, SamplingParams(stop=("X",)))
    processor.replay(0, b"abXc"[:num_received], logprobs=logprobs[:num_received])
    rest = with_logprobs(b"abXc"[num_received:], *logprobs[num_received:], total=total - 1e6)
    output, stops = processor.process(rest)
    assert output is not None and stops
    assert output.cumulative_logprob == total


@given(
    st.lists(st.integers(0, 263), max_size=40) | st.text("aE😀", max_size=12).map(str.encode),
    st.lists(st.integers(0, 40), max_size=6),
    st.lists(st.sampled_from(["a", "aE", "Ea", "😀", "ll", "E\ufffd"]), max_size=3),
    st.integers(0, 5),
    st.booleans(),
)
def test_merging_of_deltas_changes_nothing(
    ids: list[int] | bytes, cuts: list[int], stop: list[str], min_tokens: int, include: bool
) -> None:
    params = SamplingParams(
        stop=tuple(stop), min_tokens=min_tokens, include_stop_str_in_output=include
    )
    bounds = sorted({0, len(ids), *(min(cut, len(ids)) for cut in cuts)})
    pieces = [delta(ids[start:end]) for start, end in pairwise(bounds)]
    end = [final(reason=FinishReason.ABORT)]
    joined = RequestOutput.join(run([*pieces, *end], params)[0]).outputs[0]
    alone = [delta([i]) for i in ids]
    assert joined == RequestOutput.join(run([*alone, *end], params)[0]).outputs[0]
    if joined.stop_reason is None:
        assert joined.text == TOKENIZER.decode(list(ids))
