"""AnswerConstraints: which demands go together, and what they ask of the engine."""

import json

import pytest

from folovllm.chat import Tool
from folovllm.errors import InvalidRequestError, UnsupportedError
from folovllm.v1 import tokenizer_service_pb2 as wire
from folovllm.v1 import types_pb2
from tokenizer_service.chat.constraints import AnswerConstraints
from tokenizer_service.chat.markers import ChatMarkers, ThinkingState

TOKENS = ChatMarkers(1, 2, 3, 4, 5)
SCHEMA = '{"type": "object", "properties": {"city": {"type": "string"}}}'
WEATHER = Tool("get_weather", "Tells it.", SCHEMA)
CLOCK = Tool("clock")
UNSPECIFIED, AUTO, NONE, REQUIRED = (
    wire.ToolChoice(mode=mode) for mode in wire.ToolChoice.Mode.values()
)
UNKNOWN = wire.ToolChoice.FromString(b"\x28\x09")
FREE_TEXT = wire.ResponseFormat(text=wire.FreeText())
ANY_OBJECT = wire.ResponseFormat(json_object=types_pb2.AnyJsonObject())
MAY_BEGIN, OPEN, OVER = ThinkingState.MAY_BEGIN, ThinkingState.OPEN, ThinkingState.OVER


def shape_of(request: wire.ChatRequest, *tools: Tool) -> AnswerConstraints:
    return AnswerConstraints.from_proto(request, tools)


def constrained(
    request: wire.ChatRequest, *tools: Tool, thinking: ThinkingState = OVER
) -> types_pb2.SamplingParams:
    params = types_pb2.SamplingParams()
    params.CopyFrom(request.sampling_params)
    shape_of(request, *tools).constrain(params, TOKENS, thinking)
    return params


@pytest.mark.parametrize("tool_choice", [None, wire.ToolChoice(), UNSPECIFIED, AUTO])
@pytest.mark.parametrize("response_format", [None, wire.ResponseFormat(), FREE_TEXT])
def test_nothing_is_asked_of_a_free_answer(
    tool_choice: wire.ToolChoice | None, response_format: wire.ResponseFormat | None
) -> None:
    request = wire.ChatRequest(tool_choice=tool_choice, response_format=response_format)
    assert constrained(request, WEATHER, thinking=MAY_BEGIN) == types_pb2.SamplingParams()
    assert shape_of(request, WEATHER).may_call


def test_no_call_may_begin_where_none_is_wanted() -> None:
    request = wire.ChatRequest(tool_choice=NONE)
    params = constrained(request, WEATHER)
    assert [list(each.ids) for each in params.bad_words_token_ids] == [[4]]
    assert not shape_of(request, WEATHER).may_call


def test_a_required_call_is_a_grammar_over_the_markers_and_schemas() -> None:
    params = constrained(wire.ChatRequest(tool_choice=REQUIRED), WEATHER, CLOCK)
    rules = dict(line.split(": ", 1) for line in params.grammar.splitlines())
    assert rules["start"] == "calls"
    assert rules["calls"] == 'call ("\\n" call)*'
    assert rules["call"] == '<[4]> "\\n" body "\\n" <[5]>'
    assert rules["body"] == "body_0 | body_1"
    assert rules["body_0"] == '"{\\"name\\": \\"get_weather\\", \\"arguments\\": " arguments_0 "}"'
    assert json.loads(rules["arguments_0"].removeprefix("%json ")) == json.loads(SCHEMA)
    assert json.loads(rules["arguments_1"].removeprefix("%json "))["properties"] == {}


def test_a_named_tool_is_called_once() -> None:
    params = constrained(
        wire.ChatRequest(tool_choice=wire.ToolChoice(name="clock")), WEATHER, CLOCK
    )
    assert "calls: call\n" in params.grammar
    assert "get_weather" not in params.grammar


def test_a_format_with_tools_is_either_of_both() -> None:
    request = wire.ChatRequest(response_format=ANY_OBJECT)
    assert constrained(request).json_schema == '{"type": "object"}'
    assert "start: calls | answer" in constrained(request, WEATHER).grammar


@pytest.mark.parametrize(
    ("thinking", "reasoning"),
    [
        (MAY_BEGIN, {"start_token_id": 2, "end_token_id": 3}),
        (OPEN, {"end_token_id": 3}),
        (OVER, None),
    ],
)
def test_reasoning_is_free_before_a_format(
    thinking: ThinkingState, reasoning: dict[str, int] | None
) -> None:
    request = wire.ChatRequest(sampling_params=types_pb2.SamplingParams(regex="a+"))
    params = constrained(request, thinking=thinking)
    assert params.HasField("reasoning") is (reasoning is not None)
    if reasoning is not None:
        assert params.reasoning == types_pb2.SamplingParams.Reasoning(**reasoning)


def test_a_thinking_budget_bounds_reasoning_without_a_format() -> None:
    params = constrained(wire.ChatRequest(thinking_budget=7), thinking=MAY_BEGIN)
    assert params.reasoning.max_tokens == 7
    assert params.WhichOneof("structured_output") is None


@pytest.mark.parametrize(
    ("request_", "tools", "field"),
    [
        (wire.ChatRequest(tool_choice=REQUIRED), (), "tool_choice"),
        (wire.ChatRequest(tool_choice=wire.ToolChoice(name="x")), (CLOCK,), "tool_choice.name"),
        (wire.ChatRequest(tool_choice=UNKNOWN), (CLOCK,), "tool_choice.mode"),
        (
            wire.ChatRequest(
                tool_choice=REQUIRED,
                response_format=ANY_OBJECT,
            ),
            (CLOCK,),
            "response_format",
        ),
        (
            wire.ChatRequest(
                response_format=ANY_OBJECT,
                sampling_params=types_pb2.SamplingParams(regex="a"),
            ),
            (),
            "sampling_params.regex",
        ),
        (
            wire.ChatRequest(
                tool_choice=REQUIRED,
                sampling_params=types_pb2.SamplingParams(grammar="start: /a/"),
            ),
            (CLOCK,),
            "sampling_params.grammar",
        ),
        (
            wire.ChatRequest(response_format=wire.ResponseFormat(json_schema="{")),
            (),
            "response_format.json_schema",
        ),
        (
            wire.ChatRequest(
                sampling_params=types_pb2.SamplingParams(
                    reasoning=types_pb2.SamplingParams.Reasoning(end_token_id=1)
                )
            ),
            (),
            "sampling_params.reasoning",
        ),
    ],
)
def test_demands_that_cannot_be_met(
    request_: wire.ChatRequest, tools: tuple[Tool, ...], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        shape_of(request_, *tools)
    assert caught.value.field == field


def test_a_tokenizer_without_markers_can_require_no_call() -> None:
    request = wire.ChatRequest(tool_choice=REQUIRED)
    with pytest.raises(UnsupportedError):
        shape_of(request, CLOCK).constrain(types_pb2.SamplingParams(), ChatMarkers(), OVER)


def test_the_engines_errors_are_about_what_the_caller_gave() -> None:
    assert AnswerConstraints((CLOCK,), "required").engine_fields == {
        "sampling_params.grammar": "tools"
    }
    assert AnswerConstraints(json_schema="{}").engine_fields == {
        "sampling_params.json_schema": "response_format.json_schema"
    }
    assert AnswerConstraints((CLOCK,), "none").engine_fields == {}
