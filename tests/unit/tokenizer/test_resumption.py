"""A stream that breaks after any of its messages, and goes on from what was received of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folovllm.chat_outputs import ChatFinish, ChatOutput, TextDelta, ToolCallEnd
from folovllm.errors import InvalidRequestError
from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.model_files import DEMO_MODEL
from folovllm.outputs import CompletionOutput, FinishReason, RequestInfo, Usage
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2
from folovllm_client.api.calls.progress import Progress
from tokenizer_service.chat.call_ids import CallIds
from tokenizer_service.chat.chat_processor import ChatProcessor
from tokenizer_service.chat.markers import ChatMarkers, ThinkingState
from tokenizer_service.chat.parser import ChatParser
from tokenizer_service.handlers.resuming.ending import EndingRules
from tokenizer_service.handlers.resuming.received import read_received
from tokenizer_service.handlers.resuming.resumption import Resumption
from tokenizer_service.text.output_processor import OutputProcessor
from tokenizer_service.text.tokenizer import Tokenizer

CALL = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": [1]}}\n</tool_call>'
)
OTHER_CALL = '<tool_call>{"arguments": {}, "name": "f"}</tool_call>'
ANSWER = f"<think>\nI ask 😀.\n\n</think>\n\nI look.\n{CALL}\n{OTHER_CALL}\nDone.\n\n"
ROOM = 500


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(DEMO_MODEL)


def ids_of(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


@cache
def eos() -> int:
    return ids_of("<|im_end|>")[0]


@dataclass
class Engine:
    """What an engine generates, and how it ends: by its last id."""

    token_ids: list[int]
    finish: FinishReason = FinishReason.STOP
    stop_reason: int | None = None
    output_complete: bool = False

    def deltas(self, start: int, cuts: list[int]) -> list[CompletionOutput]:
        """What it sends from an id on, the last id with the end."""
        bounds = [start, *sorted({cut for cut in cuts if start < cut < len(self.token_ids)})]
        ends = [*bounds[1:], len(self.token_ids)]
        deltas = [self._delta(*bound) for bound in zip(bounds, ends, strict=True)]
        last = deltas[-1]
        last.finish_reason, last.stop_reason = self.finish, self.stop_reason
        last.output_complete, last.exact = self.output_complete, True
        last.usage = Usage(3, len(self.token_ids))
        return deltas

    def _delta(self, start: int, end: int) -> CompletionOutput:
        ids = self.token_ids[start:end]
        logprobs = [PositionLogprobs(Logprob(i, -i / 8, 1)) for i in ids]
        return CompletionOutput("r", 0, token_ids=ids, logprobs=logprobs)


class Chats:
    """Chats with one set of parameters."""

    request = messages.ChatRequest(request_id="r")
    redraws = True

    def __init__(self, params: SamplingParams) -> None:
        self.params = params

    def new_processor(self) -> Any:
        return ChatProcessor(
            self._new_parser, include_stop_token=self.params.include_stop_str_in_output
        )

    def _new_parser(self, index: int) -> ChatParser:
        return ChatParser(
            tokenizer(),
            ChatMarkers.of(tokenizer()),
            self.params,
            ThinkingState.MAY_BEGIN,
            True,
            CallIds("r", "prompt", index),
        )

    def process(self, processor: Any, delta: CompletionOutput) -> tuple[list[Any], bool]:
        outputs, stops = processor.process(delta)
        return outputs, stops

    def joined(self, outputs: list[Any]) -> list[Any]:
        """Neighbouring texts of a kind as one, then all ids and log-probabilities."""
        events: list[Any] = []
        for output in outputs:
            event = output.event
            if events and isinstance(event, TextDelta) and type(events[-1]) is type(event):
                events[-1] = replace(event, text=events[-1].text + event.text)
            else:
                events.append(event)
        return [events, *_ids(outputs)]


class Generates(Chats):
    request = messages.GenerateRequest(request_id="r")  # type: ignore[assignment]
    redraws = False

    def new_processor(self) -> Any:
        return OutputProcessor(tokenizer(), self.params)

    def process(self, processor: Any, delta: CompletionOutput) -> tuple[list[Any], bool]:
        output, stops = processor.process(delta)
        return [] if output is None else [output], stops

    def joined(self, outputs: list[Any]) -> list[Any]:
        (last,) = (output for output in outputs if output.finished())
        end = replace(last, text="", token_ids=[], logprobs=[])
        return ["".join(output.text for output in outputs), end, *_ids(outputs)]


def _ids(outputs: list[Any]) -> list[Any]:
    return [
        [i for output in outputs for i in output.token_ids],
        [position for output in outputs for position in output.logprobs],
    ]


def run(side: Chats, processor: Any, deltas: list[CompletionOutput]) -> list[Any]:
    """All outputs; after a stop string the engine's end comes as that of an abort."""
    outputs: list[Any] = []
    for delta in deltas:
        new, stops = side.process(processor, delta)
        outputs += new
        if stops:
            final = replace(deltas[-1], token_ids=[], logprobs=[], finish_reason=FinishReason.ABORT)
            return outputs + side.process(processor, final)[0]
    return outputs


def go_on(side: Chats, engine: Engine, received: list[Any], cuts: list[int]) -> list[Any]:
    """What comes after the messages received."""
    progress = Progress(side.request)
    read = progress.reader(lambda: lambda message: message)
    info = RequestInfo(side.params, prompt_fingerprint="prompt").to_proto()
    read(type(received[0].to_proto())(request_id="r", info=info) if received else _info(side, info))
    for output in received:
        read(output.to_proto())
    resume = progress.next_request().resume
    rules = EndingRules(side.params, {eos()}, side.params.max_tokens or ROOM)
    resumption = Resumption[Any]("r", side.params, 3, redraws=side.redraws)
    processor = side.new_processor()
    list(resumption.replay(read_received(resume, rules, tokenizer().vocab_size), processor))
    outputs = resumption.first
    if resumption.is_complete:
        return outputs
    request = types_pb2.Request()
    resumption.add_to(request)
    (continued,) = request.continued.outputs
    start = len(continued.token_ids)
    assert list(continued.token_ids) == engine.token_ids[:start]
    assert list(continued.logprobs) == [-i / 8 for i in continued.token_ids]
    return outputs + _drain(side, resumption, processor, engine.deltas(start, cuts))


def _info(side: Chats, info: types_pb2.RequestInfo) -> Any:
    kind = types_pb2.CompletionOutput if isinstance(side, Generates) else messages.ChatOutput
    return kind(request_id="r", info=info)


def _drain(
    side: Chats, resumption: Resumption[Any], processor: Any, deltas: list[CompletionOutput]
) -> list[Any]:
    """As the handlers do."""
    outputs: list[Any] = []

    async def stream() -> Any:
        for delta in deltas:
            yield delta.to_proto()

    async def read() -> None:
        async for message in resumption.outputs(stream()):
            new, stops = side.process(processor, CompletionOutput.from_proto(message))
            outputs.extend(resumption.unsent(0, new))
            if stops:
                final = replace(
                    deltas[-1], token_ids=[], logprobs=[], finish_reason=FinishReason.ABORT
                )
                outputs.extend(side.process(processor, final)[0])
                return

    with pytest.raises(StopIteration):
        read().send(None)
    return outputs


def check_every_cut(side: Chats, engine: Engine, cuts: list[int], later_cuts: list[int]) -> None:
    whole = run(side, side.new_processor(), engine.deltas(0, cuts))
    expected = side.joined(whole)
    for count in range(len(whole)):
        rest = go_on(side, engine, whole[:count], later_cuts)
        assert side.joined(whole[:count] + rest) == expected
        assert all(output.request_id == "r" for output in rest)


PARAMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stop": {"stop": ("Do", "look")},
    "late stop": {"stop": ("Done.\n",), "min_tokens": 20, "include_stop_str_in_output": True},
    "length": {"max_tokens": 70},
    "grammar": {"structured_output": {"json_object": True}},
}
# A Generate sends the last id of a grammar with its end.
CASES = [(Chats, name) for name in PARAMS] + [
    (Generates, name) for name in PARAMS if name != "grammar"
]


def engine_for(params: SamplingParams, text: str) -> Engine:
    ids = ids_of(text)
    if params.structured_output is not None:
        return Engine(ids, output_complete=True)
    if params.max_tokens is not None and len(ids) >= params.max_tokens:
        return Engine(ids[: params.max_tokens], FinishReason.LENGTH)
    return Engine([*ids, eos()])


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("step", [1, 4, 1000])
def test_every_message_may_be_the_last_one(kind: type[Chats], name: str, step: int) -> None:
    params = SamplingParams(max_tokens=ROOM, logprobs=0, seed=1).clone(**PARAMS[name])
    engine = engine_for(params, ANSWER)
    check_every_cut(kind(params), engine, [*range(0, 500, step)], [*range(0, 500, 3)])


PIECES = st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "\n", "\n\n", "a b", "é😀"]
    + ['{"name": "f", "arguments": {"a": 1}}', '{"name": "f", "arg', CALL, OTHER_CALL]
).map(ids_of)
BYTES = st.lists(st.sampled_from([*"😀é".encode()]), max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(PIECES | BYTES, max_size=8),
    st.lists(st.sampled_from(["a", "\n", "e s", "\n\n", "😀"]), max_size=2),
    st.integers(0, 4),
    st.sampled_from(["eos", "length", "stop id", "complete"]),
    st.booleans(),
    st.data(),
)
def test_streams_of_any_kind(
    pieces: list[list[int]],
    stop: list[str],
    min_tokens: int,
    end: str,
    include: bool,
    data: st.DataObject,
) -> None:
    ids = [i for piece in pieces for i in piece] or ids_of("x")
    params = SamplingParams(
        logprobs=0,
        seed=1,
        max_tokens=len(ids) if end == "length" else ROOM,
        min_tokens=min(min_tokens, len(ids) - 1),
        stop=stop,
        include_stop_str_in_output=include,
        stop_token_ids=ids_of("Q") if end == "stop id" else (),
    )
    if end == "complete":
        params = params.clone(structured_output={"json_object": True})
    engine = {
        "eos": Engine([*ids, eos()]),
        "length": Engine(ids, FinishReason.LENGTH),
        "stop id": Engine([*ids, *ids_of("Q")], stop_reason=ids_of("Q")[0]),
        "complete": Engine(ids, output_complete=True),
    }[end]
    cuts = st.lists(st.integers(1, max(1, len(ids))), max_size=12)
    for side in (Chats(params), *([] if end == "complete" else [Generates(params)])):
        check_every_cut(side, engine, data.draw(cuts), data.draw(cuts))


def test_what_is_complete_needs_no_engine() -> None:
    params = SamplingParams(logprobs=0, seed=1, max_tokens=ROOM)
    side, engine = Chats(params), Engine([*ids_of(ANSWER), eos()])
    whole = run(side, side.new_processor(), engine.deltas(0, []))
    assert isinstance(whole[-1].event, ChatFinish) and not whole[-1].token_ids
    silent = replace(engine, token_ids=[])
    assert [output.event for output in go_on(side, silent, whole[:-1], [])] == [whole[-1].event]


def test_calls_have_the_same_ids_wherever_they_are_parsed() -> None:
    params = SamplingParams(seed=1, max_tokens=ROOM, logprobs=0)
    side, engine = Chats(params), Engine([*ids_of(CALL + CALL), eos()])
    whole = run(side, side.new_processor(), engine.deltas(0, [*range(100)]))
    rest = go_on(side, engine, whole[:3], [])
    ends = [
        [each.event.tool_call.id for each in outputs if isinstance(each.event, ToolCallEnd)]
        for outputs in (whole, rest)
    ]
    assert ends[0] == ends[1] and len(set(ends[0])) == 2
    assert CallIds("r", "prompt", 1)() != CallIds("r", "prompt", 0)() != CallIds("r", "p", 0)()


RULES = EndingRules(SamplingParams(max_tokens=5, min_tokens=1, stop_token_ids=(9,)), {2}, 5)


@pytest.mark.parametrize(
    ("output", "field"),
    [
        ({"token_ids": [1] * 6}, "token_ids"),
        ({"token_ids": [1, 100]}, "token_ids[1]"),
        ({"token_ids": [1, 2, 1]}, "token_ids[2]"),
        ({"token_ids": [1, 9, 1]}, "token_ids[2]"),
        ({"token_ids": [1], "logprobs": [0.5]}, "logprobs"),
        ({"num_later_messages": 1}, "num_later_messages"),
    ],
)
def test_what_no_stream_has_sent_is_refused(output: dict[str, Any], field: str) -> None:
    resume = types_pb2.Resume(
        outputs=[types_pb2.ResumedOutput(index=1), types_pb2.ResumedOutput(**output)]
    )
    with pytest.raises(InvalidRequestError) as caught:
        read_received(resume, RULES, 100)
    assert caught.value.field == f"resume.outputs[1].{field}"


def test_ids_that_would_end_a_longer_output_do_not_end_a_short_one() -> None:
    resume = types_pb2.Resume(outputs=[types_pb2.ResumedOutput(token_ids=[2, 1, 1, 1, 1])])
    (received,) = read_received(resume, RULES, 100)
    assert received.ending is not None and received.ending.reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("ids", "num_later", "field"),
    [
        (lambda: ids_of("a stop b"), 0, "token_ids[2]"),
        (lambda: ids_of("a"), 1, "num_later_messages"),
        (lambda: [*ids_of("a"), eos()], 3, "num_later_messages"),
    ],
)
def test_what_the_texts_refute_is_refused(
    ids: Callable[[], list[int]], num_later: int, field: str
) -> None:
    params = SamplingParams(seed=1, max_tokens=ROOM, stop=(" stop",))
    output = types_pb2.ResumedOutput(token_ids=ids(), num_later_messages=num_later)
    received = read_received(
        types_pb2.Resume(outputs=[output]), EndingRules(params, {eos()}, ROOM), 5000
    )
    resumption = Resumption[ChatOutput]("r", params, 3, redraws=True)
    with pytest.raises(InvalidRequestError) as caught:
        list(resumption.replay(received, Chats(params).new_processor()))
    assert caught.value.field == f"resume.outputs[0].{field}"
