"""From Python values to ChatRequest, and what is refused."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from folovllm.chat import ChatMessage, Role, Tool, ToolCall
from folovllm.errors import InvalidRequestError
from folovllm.sampling_params import UNTIL_CONTEXT_ENDS, SamplingParams
from folovllm.v1 import tokenizer_service_pb2 as wire
from folovllm.v1 import types_pb2
from folovllm_client.api.chat_requests import chat_request, message_as_dict, read_messages

TOOL = Tool("add", "Adds.", '{"type": "object"}')
CALL = ToolCall("c1", "add", '{"a": 1}')
USER = {"role": "user", "content": "hi"}


def test_one_text_is_what_the_user_says() -> None:
    assert chat_request("hi") == wire.ChatRequest(
        messages=[wire.ChatMessage(role=wire.ROLE_USER, content="hi")]
    )


def test_dicts_and_messages_mean_the_same() -> None:
    messages = [
        ChatMessage(Role.SYSTEM, "Be kind."),
        ChatMessage(Role.USER, "1 + 1?"),
        ChatMessage(Role.ASSISTANT, "", "Add them.", (CALL,)),
        ChatMessage(Role.TOOL, "2", tool_call_id="c1"),
    ]
    dicts: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": "Be "}, {"text": "kind."}]},
        {"role": "user", "content": "1 + 1?", "name": None},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Add them.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
            ],
        },
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    ]
    assert chat_request(dicts) == chat_request(messages)
    assert read_messages([message_as_dict(message) for message in messages]) == tuple(messages)


def test_tools_of_every_form() -> None:
    def add(a: int) -> int:
        """Adds."""
        return a

    as_dict = {"name": "sub", "description": "Subtracts.", "parameters": {"type": "object"}}
    flat = {**as_dict, "name": "flat"}
    tools: list[Any] = [TOOL, {"type": "function", "function": as_dict}, flat]
    sent = chat_request("hi", tools=tools).tools
    assert [tool.name for tool in sent] == ["add", "sub", "flat"]
    assert sent[1].parameters == '{"type": "object"}'
    [sent_function] = chat_request("hi", tools=[add]).tools
    assert (sent_function.name, sent_function.description) == ("add", "Adds.")
    assert json.loads(sent_function.parameters)["required"] == ["a"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("auto", None),
        ("none", wire.ToolChoice(mode=wire.ToolChoice.MODE_NONE)),
        ("required", wire.ToolChoice(mode=wire.ToolChoice.MODE_REQUIRED)),
        ("add", wire.ToolChoice(name="add")),
    ],
)
def test_tool_choice(choice: str, message: wire.ToolChoice | None) -> None:
    request = chat_request("hi", tools=[TOOL], tool_choice=choice)
    assert request == wire.ChatRequest(
        messages=chat_request("hi").messages, tools=[TOOL.to_proto()], tool_choice=message
    )


class Person(BaseModel):
    name: str


def test_response_format() -> None:
    schema = {"type": "object", "title": "é"}
    by_dict = chat_request("hi", response_format=schema).response_format
    assert by_dict == wire.ResponseFormat(json_schema='{"type": "object", "title": "é"}')
    by_model = chat_request("hi", response_format=Person).response_format
    assert json.loads(by_model.json_schema) == Person.model_json_schema()
    any_object = chat_request("hi", response_format="json_object").response_format
    assert any_object == wire.ResponseFormat(json_object=types_pb2.AnyJsonObject())
    assert not chat_request("hi").HasField("response_format")


def test_all_other_options() -> None:
    request = chat_request(
        [USER, {"role": "assistant", "content": "Well"}],
        enable_thinking=False,
        thinking_budget=0,
        sampling_params=SamplingParams(max_tokens=None),
        continue_final_message=True,
        request_id="r",
        priority=-1,
        cache_salt="s",
    )
    assert request.HasField("enable_thinking") and not request.enable_thinking
    assert request.HasField("thinking_budget") and request.thinking_budget == 0
    assert request.HasField("sampling_params")
    assert request.sampling_params.max_tokens == UNTIL_CONTEXT_ENDS
    assert request.continue_final_message
    assert (request.request_id, request.priority, request.cache_salt) == ("r", -1, "s")


def test_only_given_options_are_sent() -> None:
    assert not chat_request("hi").HasField("sampling_params")
    partial = types_pb2.SamplingParams(seed=1)
    assert chat_request("hi", sampling_params=partial).sampling_params == partial


@pytest.mark.parametrize(
    ("messages", "options", "field"),
    [
        ([], {}, "messages"),
        (17, {}, "messages"),
        (USER, {}, "messages"),
        (["hi"], {}, "messages[0]"),
        ([USER, {"role": "teacher", "content": "hi"}], {}, "messages[1].role"),
        ([{"content": "hi"}], {}, "messages[0].role"),
        ([{"role": "user", "content": 1}], {}, "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, "messages[0].content[0]"),
        ([{"role": "user", "audio": "x"}], {}, "messages[0].audio"),
        ([{"role": "user", "tool_calls": [{"name": "a"}]}], {}, "messages[0].tool_calls"),
        (
            [{"role": "assistant", "tool_calls": [{"name": "a", "arguments": "["}]}],
            {},
            "messages[0].tool_calls[0].arguments",
        ),
        ("\ud800", {}, "messages[0]"),
        ("hi", {"tools": [TOOL, TOOL]}, "tools[1].name"),
        ("hi", {"tools": [17]}, "tools[0]"),
        ("hi", {"tools": [{"description": "x"}]}, "tools[0].name"),
        ("hi", {"tools": [{"name": "x", "parameters": "1"}]}, "tools[0].parameters"),
        ("hi", {"tools": [lambda *values: values]}, "tools[0].parameters"),
        ("hi", {"tool_choice": "add"}, "tool_choice"),
        ("hi", {"tool_choice": "required"}, "tool_choice"),
        ("hi", {"tool_choice": "sub", "tools": [TOOL]}, "tool_choice"),
        ("hi", {"response_format": "xml"}, "response_format"),
        ("hi", {"response_format": int}, "response_format"),
        ("hi", {"response_format": {"enum": [{1}]}}, "response_format"),
        ("hi", {"thinking_budget": -1}, "thinking_budget"),
        ("hi", {"enable_thinking": "yes"}, "enable_thinking"),
        ("hi", {"priority": 2**31}, "priority"),
        ("hi", {"sampling_params": 1}, "sampling_params"),
        ("hi", {"continue_final_message": True}, "continue_final_message"),
    ],
)
def test_an_invalid_request_names_its_field(
    messages: Any, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat_request(messages, **options)
    assert caught.value.field == field
