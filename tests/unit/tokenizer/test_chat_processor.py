"""ChatProcessor: deltas of token ids in, whole streams of events out."""

import pytest

from folovllm.chat_outputs import ChatFinishReason, ChatResult, ContentDelta
from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.model_files import DEMO_MODEL
from folovllm.outputs import (
    CompletionOutput,
    FinishReason,
    RequestMetrics,
    Usage,
)
from folovllm.sampling_params import SamplingParams
from tokenizer_service.chat.call_ids import CallIds
from tokenizer_service.chat.chat_processor import ChatProcessor
from tokenizer_service.chat.markers import ChatMarkers, ThinkingState
from tokenizer_service.chat.parser import ChatParser
from tokenizer_service.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_folder(DEMO_MODEL)
TOKENS = ChatMarkers.of(TOKENIZER)
EOS = TOKENIZER.encode("<|im_end|>")
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def processor(*, include: bool = False, **params: object) -> ChatProcessor:
    sampling = SamplingParams().clone(**params)
    return ChatProcessor(
        lambda index: ChatParser(
            TOKENIZER, TOKENS, sampling, ThinkingState.MAY_BEGIN, True, CallIds("r", "", index)
        ),
        include_stop_token=include,
    )


def delta(
    token_ids: list[int],
    finish: FinishReason | None = None,
    index: int = 0,
    **values: object,
) -> CompletionOutput:
    output = CompletionOutput("r", index, token_ids=token_ids, finish_reason=finish)
    if finish is not None:
        output.usage = Usage(prompt_tokens=3, completion_tokens=99)
        output.metrics = RequestMetrics(queue=0.5)
    for name, value in values.items():
        setattr(output, name, value)
    return output


def run(chat: ChatProcessor, deltas: list[CompletionOutput]) -> ChatResult:
    return ChatResult.join(output for each in deltas for output in chat.process(each)[0])


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("yes", FinishReason.STOP, ChatFinishReason.STOP),
        ("yes", FinishReason.LENGTH, ChatFinishReason.LENGTH),
        ("yes", FinishReason.ABORT, ChatFinishReason.ABORT),
        (CALL, FinishReason.STOP, ChatFinishReason.TOOL_CALLS),
        (CALL, FinishReason.LENGTH, ChatFinishReason.LENGTH),
    ],
)
def test_finish_reasons(text: str, finish: FinishReason, reason: ChatFinishReason) -> None:
    ids = ids_of(text) + (EOS if finish is FinishReason.STOP else [])
    result = run(processor(), [delta([i]) for i in ids[:-1]] + [delta(ids[-1:], finish)])
    (answer,) = result.answers
    assert answer.finish_reason is reason
    assert answer.content == (text if text == "yes" else "")
    assert answer.finish is not None and answer.finish.metrics == RequestMetrics(queue=0.5)


def test_every_id_comes_once_and_with_its_logprobs() -> None:
    ids = ids_of("<think>\nso\n</think>\n\nyes") + EOS
    positions = [PositionLogprobs(Logprob(i, -0.5, 1)) for i in ids]
    deltas = [
        delta([token_id], logprobs=[position])
        for token_id, position in zip(ids, positions, strict=True)
    ]
    deltas[-1] = delta(ids[-1:], FinishReason.STOP, logprobs=positions[-1:])
    result = run(processor(), deltas)
    assert result.answers[0].token_ids == ids
    assert result.answers[0].logprobs == positions


def test_reasoning_tokens_are_counted() -> None:
    ids = ids_of("<think>\nso\n</think>\n\nyes") + EOS
    (answer,) = run(processor(), [delta(ids, FinishReason.STOP)]).answers
    assert answer.finish is not None
    assert answer.finish.usage == Usage(3, 99, 0, len(ids_of("\nso\n")))


def test_ids_of_deltas_that_bring_no_event_come_with_the_next() -> None:
    chat = processor()
    assert chat.process(delta(ids_of("<think>"))) == ([], False)
    (output,), _ = chat.process(delta(ids_of("so")))
    assert output.token_ids == ids_of("<think>") + ids_of("so")


def test_a_stop_string_ends_the_answer_and_asks_once_for_an_abort() -> None:
    chat = processor(stop=("STOP",))
    ids = ids_of("a STOP b")
    outputs, stops = chat.process(delta(ids))
    assert [output.event for output in outputs] == [ContentDelta("a ")]
    assert stops
    assert len(outputs[0].token_ids) < len(ids)
    assert chat.process(delta(ids_of("more"))) == ([], False)
    (last,), _ = chat.process(delta([], FinishReason.ABORT))
    answer = ChatResult.join([*outputs, last]).answers[0]
    assert answer.finish is not None
    assert (answer.finish.reason, answer.finish.stop_reason) == (ChatFinishReason.STOP, "STOP")
    assert answer.finish.usage is not None
    assert answer.finish.usage.completion_tokens == len(answer.token_ids)
    assert chat.process(delta(ids_of("more"))) == ([], False)


def test_a_stop_string_in_the_final_delta_needs_no_abort() -> None:
    chat = processor(stop=("STOP",))
    outputs, stops = chat.process(delta(ids_of("a STOP b"), FinishReason.LENGTH))
    assert not stops
    result = ChatResult.join(outputs)
    assert result.answers[0].finish_reason is ChatFinishReason.STOP


def test_a_stop_token_is_no_content_unless_asked_for() -> None:
    ids = ids_of("yes") + ids_of("!")
    end = {"finish": FinishReason.STOP, "stop_reason": ids[-1]}
    (plain,) = run(processor(), [delta(ids, **end)]).answers  # type: ignore[arg-type]
    (included,) = run(processor(include=True), [delta(ids, **end)]).answers  # type: ignore[arg-type]
    assert (plain.content, included.content) == ("yes", "yes!")
    assert plain.finish is not None and plain.finish.stop_reason == ids[-1]
    assert plain.token_ids == included.token_ids == ids


def test_a_complete_structured_output_keeps_its_last_token() -> None:
    ids = ids_of(CALL)
    end = delta(ids, FinishReason.STOP, output_complete=True)
    (answer,) = run(processor(), [end]).answers
    assert answer.finish_reason is ChatFinishReason.TOOL_CALLS
    assert answer.finish is not None and answer.finish.output_complete


def test_n_answers_are_kept_apart() -> None:
    deltas = [
        delta(ids_of("one"), index=0),
        delta(ids_of(CALL) + EOS, FinishReason.STOP, index=1),
        delta(EOS, FinishReason.STOP, index=0),
    ]
    result = run(processor(), deltas)
    assert [answer.content for answer in result.answers] == ["one", ""]
    assert [len(answer.tool_calls) for answer in result.answers] == [0, 1]
    assert result.finished
