"""Every dict form of a chat that the types of openai-python allow: what is sent, or refused.

KEYS are those types' keys, as of openai 3.57; the forms walk them all, so that none is forgotten.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from folovllm.chat import ChatMessage, Role, Tool, ToolCall
from folovllm.errors import InvalidRequestError
from folovllm.v1 import tokenizer_service_pb2 as wire
from folovllm.v1 import types_pb2
from folovllm_client.api.chat_requests import chat_request
from folovllm_client.api.sampling_keywords import SamplingKeywords

KEYS = {
    "ChatCompletionDeveloperMessageParam": "content role name",
    "ChatCompletionSystemMessageParam": "content role name",
    "ChatCompletionUserMessageParam": "content role name",
    "ChatCompletionAssistantMessageParam": (
        "role audio content function_call name refusal tool_calls"
    ),
    "ChatCompletionToolMessageParam": "content role tool_call_id",
    "ChatCompletionFunctionMessageParam": "content name role",
    "ChatCompletionContentPartTextParam": "text type prompt_cache_breakpoint",
    "ChatCompletionContentPartRefusalParam": "refusal type",
    "ChatCompletionContentPartImageParam": "image_url type prompt_cache_breakpoint",
    "ChatCompletionContentPartInputAudioParam": "input_audio type prompt_cache_breakpoint",
    "File": "file type prompt_cache_breakpoint",
    "ChatCompletionMessageFunctionToolCallParam": "id function type",
    "ChatCompletionMessageCustomToolCallParam": "id custom type",
    "Function": "arguments name",
    "ChatCompletionFunctionToolParam": "function type",
    "FunctionDefinition": "name description parameters strict",
    "ChatCompletionCustomToolParam": "custom type",
    "ChatCompletionNamedToolChoiceParam": "function type",
    "ChatCompletionNamedToolChoiceCustomParam": "custom type",
    "ChatCompletionAllowedToolChoiceParam": "allowed_tools type",
    "ResponseFormatText": "type",
    "ResponseFormatJSONObject": "type",
    "ResponseFormatJSONSchema": "json_schema type",
    "JSONSchema": "name description schema strict",
    "CompletionCreateParams": (
        "messages model audio frequency_penalty function_call functions logit_bias logprobs "
        "max_completion_tokens max_tokens metadata modalities moderation n parallel_tool_calls "
        "prediction presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention "
        "reasoning_effort response_format safety_identifier seed service_tier stop store stream "
        "stream_options temperature tool_choice tools top_logprobs top_p user verbosity "
        "web_search_options"
    ),
}
CACHED = {"prompt_cache_breakpoint": {"mode": "explicit"}}
TEXT = {"type": "text", "text": "hi", **CACHED}
REFUSAL = {"type": "refusal", "refusal": "no"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
FUNCTION = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
SCHEMA = {"type": "object"}

MESSAGES: list[tuple[str, Any, ChatMessage | str]] = [
    # The type, a message, and what it means or the field that is refused.
    ("Developer", {"role": "developer", "content": "hi"}, ChatMessage(Role.SYSTEM, "hi")),
    ("Developer", {"role": "developer", "content": [TEXT]}, ChatMessage(Role.SYSTEM, "hi")),
    ("Developer", {"role": "developer", "content": "hi", "name": "a"}, "name"),
    ("System", {"role": "system", "content": "hi"}, ChatMessage(Role.SYSTEM, "hi")),
    ("System", {"role": "system", "content": (TEXT, TEXT)}, ChatMessage(Role.SYSTEM, "hihi")),
    ("System", {"role": "system", "content": "hi", "name": "a"}, "name"),
    ("User", {"role": "user", "content": "hi"}, ChatMessage(Role.USER, "hi")),
    ("User", {"role": "user", "content": [TEXT]}, ChatMessage(Role.USER, "hi")),
    ("User", {"role": "user", "content": "hi", "name": "a"}, "name"),
    ("User", {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "content[0]"),
    ("User", {"role": "user", "content": [TEXT, {"type": "input_audio"}]}, "content[1]"),
    ("User", {"role": "user", "content": [{"type": "file", "file": {}}]}, "content[0]"),
    ("User", {"role": "user", "content": [REFUSAL]}, "content[0]"),
    ("User", {"role": "user", "content": [{"type": "text"}]}, "content[0].text"),
    ("User", {"role": "user", "content": {"text": "hi"}}, "content"),
    ("Assistant", {"role": "assistant", "content": "hi"}, ChatMessage(Role.ASSISTANT, "hi")),
    (
        "Assistant",
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        ChatMessage(Role.ASSISTANT, "", "", (ToolCall("c1", "add", '{"a": 1}'),)),
    ),
    (
        "Assistant",
        {"role": "assistant", "content": [TEXT, REFUSAL]},
        ChatMessage(Role.ASSISTANT, "hino"),
    ),
    ("Assistant", {"role": "assistant", "refusal": "no"}, ChatMessage(Role.ASSISTANT, "no")),
    (
        "Assistant",
        {"role": "assistant", "content": "", "refusal": None, "audio": None, "function_call": None},
        ChatMessage(Role.ASSISTANT),
    ),
    ("Assistant", {"role": "assistant", "content": "hi", "refusal": "no"}, "refusal"),
    ("Assistant", {"role": "assistant", "audio": {"id": "a"}}, "audio"),
    ("Assistant", {"role": "assistant", "content": "hi", "name": "a"}, "name"),
    ("Assistant", {"role": "assistant", "function_call": CALL["function"]}, "function_call"),
    (
        "Assistant",
        {"role": "assistant", "tool_calls": [{"id": "c1", "type": "custom", "custom": {}}]},
        "tool_calls[0].type",
    ),
    (
        "Tool",
        {"role": "tool", "content": [TEXT], "tool_call_id": "c1", "name": "add"},
        ChatMessage(Role.TOOL, "hi", tool_call_id="c1"),
    ),
    ("Function", {"role": "function", "content": "hi", "name": "add"}, "role"),
]
TOOLS: list[tuple[Any, Tool | str]] = [
    (TOOL, Tool("add", "Adds.", '{"type": "object"}')),
    (
        {"type": "function", "function": {**FUNCTION, "strict": True}},
        Tool("add", "Adds.", '{"type": "object"}'),
    ),
    ({"type": "function", "function": {"name": "add"}}, Tool("add")),
    ({"type": "custom", "custom": {"name": "add"}}, "type"),
]
TOOL_CHOICES: list[tuple[Any, wire.ToolChoice | str]] = [
    ("auto", wire.ToolChoice()),
    ("none", wire.ToolChoice(mode=wire.ToolChoice.MODE_NONE)),
    ("required", wire.ToolChoice(mode=wire.ToolChoice.MODE_REQUIRED)),
    ({"type": "function", "function": {"name": "add"}}, wire.ToolChoice(name="add")),
    ({"type": "function", "function": {"name": "sub"}}, "tool_choice"),
    ({"type": "function"}, "tool_choice"),
    ({"type": "custom", "custom": {"name": "add"}}, "tool_choice.type"),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}, "tool_choice.type"),
]
RESPONSE_FORMATS: list[tuple[Any, wire.ResponseFormat | str]] = [
    ({"type": "text"}, wire.ResponseFormat()),
    ({"type": "json_object"}, wire.ResponseFormat(json_object=types_pb2.AnyJsonObject())),
    (
        {
            "type": "json_schema",
            "json_schema": {"name": "a", "description": "b", "schema": SCHEMA, "strict": False},
        },
        wire.ResponseFormat(json_schema='{"type": "object"}'),
    ),
    ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
    ({"type": "json_schema"}, "response_format.json_schema.schema"),
    ({"type": "grammar", "grammar": "a"}, "response_format.type"),
]
KEYWORDS: dict[str, tuple[Any, dict[str, Any]]] = {
    # A value of each parameter that is accepted, and the sampling parameters that are sent for it.
    "frequency_penalty": (0.5, {"frequency_penalty": 0.5}),
    "logit_bias": ({"7": -100, "8": 1}, {"logit_bias": {7: -100.0, 8: 1.0}}),
    "logprobs": (True, {"logprobs": 0}),
    "max_completion_tokens": (9, {"max_tokens": 9}),
    "max_tokens": (9, {"max_tokens": 9}),
    "n": (2, {"n": 2}),
    "presence_penalty": (-0.5, {"presence_penalty": -0.5}),
    "seed": (7, {"seed": 7}),
    "stop": (["a", "b"], {"stop": ["a", "b"]}),
    "temperature": (0, {"temperature": 0.0}),
    "top_p": (0.5, {"top_p": 0.5}),
}
OWN = {"messages", "tools", "tool_choice", "response_format", "top_logprobs"}
"""Tested by themselves."""


def keys_in(value: object) -> Iterator[str]:
    """The keys of a form at any depth."""
    if isinstance(value, Mapping):
        yield from value
        value = value.values()
    elif isinstance(value, str) or not hasattr(value, "__iter__"):
        return
    for each in value:
        yield from keys_in(each)


def test_the_forms_have_every_key() -> None:
    forms = [MESSAGES, TOOLS, TOOL_CHOICES, RESPONSE_FORMATS, CACHED]
    walked = {*keys_in(forms), "image_url", "input_audio", "file"}
    for name, keys in KEYS.items():
        if name != "CompletionCreateParams":
            assert {*keys.split()} <= walked, name
    types = {f"ChatCompletion{kind}MessageParam" for kind, _, _ in MESSAGES}
    assert types == {name for name in KEYS if name.endswith("MessageParam")}


@pytest.mark.parametrize(("kind", "form", "meaning"), MESSAGES)
def test_messages(kind: str, form: Any, meaning: ChatMessage | str) -> None:
    conversation = [{"role": "user", "content": "?"}, form]
    if isinstance(meaning, ChatMessage):
        assert chat_request(conversation).messages[1] == meaning.to_proto()
        return
    with pytest.raises(InvalidRequestError) as caught:
        chat_request(conversation)
    assert caught.value.field == f"messages[1].{meaning}"
    assert str(caught.value).startswith(f"messages[1].{meaning}: ")


@pytest.mark.parametrize(("form", "meaning"), TOOLS)
def test_tools(form: Any, meaning: Tool | str) -> None:
    if isinstance(meaning, Tool):
        assert [*chat_request("hi", tools=[form]).tools] == [meaning.to_proto()]
        return
    with pytest.raises(InvalidRequestError, match="'custom' is not supported") as caught:
        chat_request("hi", tools=[form])
    assert caught.value.field == f"tools[0].{meaning}"


@pytest.mark.parametrize(("form", "meaning"), TOOL_CHOICES)
def test_tool_choices(form: Any, meaning: wire.ToolChoice | str) -> None:
    if isinstance(meaning, wire.ToolChoice):
        assert chat_request("hi", tools=[TOOL], tool_choice=form).tool_choice == meaning
        return
    with pytest.raises(InvalidRequestError) as caught:
        chat_request("hi", tools=[TOOL], tool_choice=form)
    assert caught.value.field == meaning


@pytest.mark.parametrize(("form", "meaning"), RESPONSE_FORMATS)
def test_response_formats(form: Any, meaning: wire.ResponseFormat | str) -> None:
    if isinstance(meaning, wire.ResponseFormat):
        request = chat_request("hi", response_format=form)
        assert request.response_format == meaning
        assert request.HasField("response_format") == (meaning != wire.ResponseFormat())
        return
    with pytest.raises(InvalidRequestError) as caught:
        chat_request("hi", response_format=form)
    assert caught.value.field == meaning


@pytest.mark.parametrize("name", KEYS["CompletionCreateParams"].split())
def test_parameters(name: str) -> None:
    options: dict[str, Any] = {}
    if name in KEYWORDS:
        options[name], sent = KEYWORDS[name]
        [*fields] = chat_request("hi", **options).sampling_params.ListFields()
        values = {each.name: value for each, value in fields}
        assert {
            key: dict(value) if key == "logit_bias" else value for key, value in values.items()
        } == sent
        assert name in SamplingKeywords.__annotations__
    elif name not in OWN:
        options[name] = "a"
        with pytest.raises(InvalidRequestError, match=f"^{name} is not supported: ") as caught:
            chat_request("hi", **options)
        assert caught.value.field == name


class Function(BaseModel):
    name: str
    arguments: str


class Call(BaseModel):
    id: str
    type: str = "function"
    function: Function


class Message(BaseModel):
    """As the messages that OpenAI's client returns; vLLM's server adds the reasoning."""

    role: str = "assistant"
    content: str | None = None
    refusal: str | None = None
    annotations: list[object] | None = None
    audio: object = None
    function_call: object = None
    tool_calls: list[Call] | None = None
    reasoning: str | None = None


def test_messages_of_openais_client_are_taken_as_they_are() -> None:
    call = Call(id="c1", function=Function(name="add", arguments='{"a": 1}'))
    conversation = [
        {"role": "user", "content": "?"},
        Message(tool_calls=[call], reasoning="Add."),
        {"role": "assistant", "tool_calls": [call]},
    ]
    meant = ToolCall("c1", "add", '{"a": 1}')
    assert [*chat_request(conversation).messages[1:]] == [
        ChatMessage(Role.ASSISTANT, "", "Add.", (meant,)).to_proto(),
        ChatMessage(Role.ASSISTANT, "", "", (meant,)).to_proto(),
    ]
