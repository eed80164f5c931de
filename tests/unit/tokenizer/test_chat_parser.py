"""ChatParser: what markers mean, and that no split of the stream changes the events joined."""

import json
from collections.abc import Callable
from functools import cache
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folovllm.chat_outputs import (
    ChatAnswer,
    ChatEvent,
    ChatOutput,
    ContentDelta,
    ReasoningDelta,
    ToolCallArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
)
from folovllm.model_files import DEMO_MODEL
from folovllm.sampling_params import SamplingParams
from tokenizer_service.chat.markers import ChatMarkers, ThinkingState
from tokenizer_service.chat.parser import ChatParser
from tokenizer_service.text.tokenizer import Tokenizer

CALL = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": [1, 2]}}\n'
    "</tool_call>"
)
MAY_BEGIN, OPEN, OVER = ThinkingState.MAY_BEGIN, ThinkingState.OPEN, ThinkingState.OVER


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(DEMO_MODEL)


def ids_of(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def parser_for(
    thinking: ThinkingState = MAY_BEGIN, tool_calls: bool = True, **params: object
) -> ChatParser:
    numbers = count()
    return ChatParser(
        tokenizer(),
        ChatMarkers.of(tokenizer()),
        SamplingParams().clone(**params),
        thinking,
        tool_calls,
        lambda: f"call_{next(numbers)}",
    )


def joined(events: list[ChatEvent]) -> list[ChatEvent]:
    """Neighbouring deltas of one kind as one."""
    out: list[ChatEvent] = []
    for event in events:
        for kind in (ReasoningDelta, ContentDelta, ToolCallArgumentsDelta):
            if isinstance(event, kind) and out and isinstance(out[-1], kind):
                out[-1] = kind(out[-1].text + event.text)
                break
        else:
            out.append(event)
    return out


def parse(parser: ChatParser, pieces: list[list[int]]) -> list[ChatEvent]:
    events: list[ChatEvent] = []
    for piece in pieces:
        if parser.stop is None:
            events += parser.push(piece)
    return joined(events + parser.finish())


def answer_to(text: str, **options: object) -> ChatAnswer:
    """The answer joined, every id pushed by itself."""
    parser = parser_for(**options)  # type: ignore[arg-type]
    answer = ChatAnswer()
    for event in parse(parser, [[i] for i in ids_of(text)]):
        answer.add(ChatOutput(event))
    return answer


def test_reasoning_content_and_calls_without_the_breaks_between_them() -> None:
    text = f"<think>\nShort\n\nworking.\n</think>\n\nLet me see.\n{CALL}\n{CALL}"
    events = parse(parser_for(), [[i] for i in ids_of(text)])
    arguments = '{"city": "Oslo", "days": [1, 2]}'
    assert [type(event) for event in events] == [
        ReasoningDelta,
        ContentDelta,
        *[ToolCallStart, ToolCallArgumentsDelta, ToolCallEnd] * 2,
    ]
    assert events[:3] == [
        ReasoningDelta("Short\n\nworking."),
        ContentDelta("Let me see."),
        ToolCallStart("call_0", "get_weather"),
    ]
    ends = [event.tool_call for event in events if isinstance(event, ToolCallEnd)]
    assert [(call.id, call.name, call.arguments) for call in ends] == [
        ("call_0", "get_weather", arguments),
        ("call_1", "get_weather", arguments),
    ]


def test_arguments_stream_while_they_come() -> None:
    parser = parser_for()
    events: list[ChatEvent] = []
    for token_id in ids_of(CALL):
        events += parser.push([token_id])
    deltas = [event for event in events if isinstance(event, ToolCallArgumentsDelta)]
    assert len(deltas) > 3
    assert parser.num_tool_calls == 1


def test_a_prompt_that_has_begun_the_reasoning() -> None:
    answer = answer_to("so\n</think>\n\nyes", thinking=OPEN)
    assert (answer.reasoning_content, answer.content) == ("so", "yes")


def test_reasoning_tokens_are_those_between_the_markers() -> None:
    parser = parser_for()
    parser.push(ids_of("<think>\nso\n</think>\n\nyes"))
    assert parser.num_reasoning_tokens == len(ids_of("\nso\n"))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("yes <think>no</think>", {}),
        ("<think>no</think>", {"thinking": OVER}),
        ("a</think>b", {}),
        ("a</tool_call>b", {}),
        (CALL, {"tool_calls": False}),
        ("<tool_call>\nnot JSON\n</tool_call> and on", {}),
        ('<tool_call>\n{"name": 1, "arguments": {}}\n</tool_call>', {}),
        ('<tool_call>\n{"name": "f", "arguments": []}\n</tool_call>', {}),
        ('<tool_call>\n["name"]\n</tool_call>', {}),
        ('<tool_call>\n{"name": "f", "arg', {}),
        ("<tool_call>", {}),
        ("ends with breaks\n\n", {}),
        ("", {}),
    ],
)
def test_what_is_no_marker_and_no_call_is_content(text: str, options: dict[str, object]) -> None:
    answer = answer_to(text, **options)
    assert answer.content == text
    assert not answer.reasoning_content and not answer.tool_calls


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"arguments": {"a": "ä"}, "name": "f"}', {"a": "ä"}),
        ('{"name": "f", "arguments": {"a": 1}, "id": 7}', {"a": 1}),
        ('{"name": "f"}', {}),
        ('{"name":"f","arguments":{}}', {}),
        (' {\n "name" : "f" ,\n "arguments" : {"a": {"b": "}"}} }\n\n', {"a": {"b": "}"}}),
    ],
)
@pytest.mark.parametrize("closing", ["</tool_call>", ""])
def test_other_forms_of_calls(text: str, arguments: object, closing: str) -> None:
    (call,) = answer_to(f"<tool_call>{text}{closing}").tool_calls
    assert call.name == "f"
    assert json.loads(call.arguments) == arguments


def test_a_call_that_is_cut_off_has_no_end() -> None:
    events = parse(parser_for(), [ids_of('<tool_call>\n{"name": "f", "arguments": {"a": 1')])
    assert events == [ToolCallStart("call_0", "f"), ToolCallArgumentsDelta('{"a": 1')]


def test_a_call_that_breaks_in_its_arguments_goes_on_as_content() -> None:
    events = parse(
        parser_for(), [ids_of('<tool_call>\n{"name": "f", "arguments": {"a": x}}\n</tool_call>!')]
    )
    assert events == [
        ToolCallStart("call_0", "f"),
        ToolCallArgumentsDelta('{"a": '),
        ContentDelta("x}}\n</tool_call>!"),
    ]


def test_a_call_inside_a_call_begins_a_new_one() -> None:
    answer = answer_to(CALL.removesuffix("</tool_call>") + CALL)
    assert [call.id for call in answer.tool_calls] == ["call_0", "call_1"]


def test_stop_strings_count_in_content_only() -> None:
    text = f"<think>\nSTOP\n</think>\n\n{CALL.replace('Oslo', 'STOP')}\nOne. STOP two."
    answer = answer_to(text, stop=("STOP",))
    assert answer.reasoning_content == "STOP"
    assert "STOP" in answer.tool_calls[0].arguments
    assert answer.content == "One. "
    assert answer_to(text, stop=("STOP",), include_stop_str_in_output=True).content == "One. STOP"


def test_a_stop_string_of_breaks_is_not_met_at_a_border() -> None:
    answer = answer_to("<think>\na\n</think>\n\nb\n\nc", stop=("\n\n",))
    assert answer.content == "b"


def test_no_stop_string_within_min_tokens() -> None:
    first, second = ids_of("a"), ids_of("a b a")
    parser = parser_for(stop=("a",), min_tokens=len(first))
    parse(parser, [second])
    assert parser.stop == "a"
    assert parser.num_tokens == len(second)


MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_start|>"]
TEXTS = st.text(max_size=12) | st.sampled_from(
    ["\n", "\n\n", '{"name": "f", "arguments": {"a": 1}}']
)


@cache
def vocab_size() -> int:
    return tokenizer().vocab_size


@st.composite
def streams(draw: Callable[..., object]) -> list[int]:
    """Any ids, with markers and whole texts often among them."""
    ids: list[int] = []
    parts = draw(
        st.lists(
            st.sampled_from(MARKERS).map(ids_of)
            | TEXTS.map(ids_of)
            | st.lists(st.integers(0, vocab_size() - 1), max_size=4),
            max_size=12,
        )
    )
    assert isinstance(parts, list)
    for part in parts:
        ids += part
    return ids


@settings(max_examples=300, deadline=None)
@given(
    streams(),
    st.sampled_from(ThinkingState),
    st.booleans(),
    st.lists(st.sampled_from(["a", "\n", "f", "e s", "\n\n"]), max_size=2),
    st.integers(0, 3),
    st.data(),
)
def test_events_joined_are_those_of_the_whole(
    ids: list[int],
    thinking: ThinkingState,
    tool_calls: bool,
    stop: list[str],
    min_tokens: int,
    data: st.DataObject,
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    pieces = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    options = {"stop": stop, "min_tokens": min_tokens}
    whole, split = (parser_for(thinking, tool_calls, **options) for _ in range(2))
    assert parse(split, pieces) == parse(whole, [ids])
    for name in ("stop", "num_tokens", "num_reasoning_tokens", "num_tool_calls"):
        assert getattr(split, name) == getattr(whole, name)


@settings(max_examples=100, deadline=None)
@given(streams())
def test_without_tool_calls_and_thinking_the_content_is_the_decode(ids: list[int]) -> None:
    events = parse(parser_for(OVER, False), [[i] for i in ids])
    text = tokenizer().decode(ids)
    assert events == ([ContentDelta(text)] if text else [])


BODIES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda text: not any(marker in text for marker in MARKERS)
)


@settings(max_examples=100, deadline=None)
@given(
    BODIES,
    BODIES,
    st.lists(st.dictionaries(BODIES, BODIES | st.integers(), max_size=3), max_size=3),
    st.data(),
)
def test_what_a_template_writes_comes_back(
    reasoning: str, content: str, calls: list[dict[str, object]], data: st.DataObject
) -> None:
    """Of text without markers; line breaks at the borders are the template's own."""
    written = [json.dumps({"name": "f", "arguments": each}, ensure_ascii=False) for each in calls]
    text = f"<think>\n{reasoning}\n</think>\n\n{content}" + "".join(
        f"\n<tool_call>\n{each}\n</tool_call>" for each in written
    )
    ids = ids_of(text)
    cut = data.draw(st.integers(0, len(ids)))
    answer = ChatAnswer()
    for event in parse(parser_for(), [ids[:cut], ids[cut:]]):
        answer.add(ChatOutput(event))
    normal = tokenizer().decode(ids_of(reasoning))  # the tokenizer composes characters
    assert answer.reasoning_content == normal.strip("\n")
    normal = tokenizer().decode(ids_of(content)).lstrip("\n")
    assert answer.content == (normal.rstrip("\n") if calls else normal)
    assert [call.name for call in answer.tool_calls] == ["f"] * len(calls)
