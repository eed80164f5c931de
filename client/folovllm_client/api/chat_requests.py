"""Chats as Python values, to the message of the contract.

An invalid value raises InvalidRequestError, which names the field, before anything is sent; the
server checks what depends on the model.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from folovllm.chat import Conversation
from folovllm.errors import InvalidRequestError, errors_within
from folovllm.v1 import tokenizer_service_pb2 as wire
from folovllm_client.api.chat_messages import (
    Messages,
    ToolFunction,
    ToolLike,
    as_fields,
    message_as_dict,
    read_messages,
    read_tools,
)
from folovllm_client.api.requests import (
    SharedOptions,
    field_errors,
    set_fields,
    set_sampling_params,
)
from folovllm_client.api.sampling_keywords import AnySamplingParams, with_keywords

__all__ = [
    "MAX_TOOL_ROUNDS",
    "ChatOptions",
    "ChatRequestOptions",
    "Messages",
    "ResponseFormat",
    "ToolChoice",
    "ToolFunction",
    "ToolLike",
    "chat_request",
    "message_as_dict",
    "read_messages",
    "read_tools",
]

ToolChoice = str | Mapping[str, Any]
"""As text, or in OpenAI's form, {"type": "function", "function": {"name": "add"}}."""
ResponseFormat = str | Mapping[str, Any] | type[Any] | None
"""None for free text, "json_object", a JSON schema, a pydantic model class, or OpenAI's form, such
as {"type": "json_schema", "json_schema": {"name": "person", "schema": …}}."""

MAX_TOOL_ROUNDS = 8
"""Default limit on the answers of a model that calls tools."""

_MODES = {
    "none": wire.ToolChoice.MODE_NONE,
    "required": wire.ToolChoice.MODE_REQUIRED,
}
_JSON_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))


class ChatOptions(SharedOptions, total=False):
    """How to answer; the server has defaults.

    Without `sampling_params` and keywords the model's own apply, and the answer may be as long as
    the context. SamplingParams() has max_tokens 16.
    """

    tool_choice: ToolChoice
    """"auto", "none", "required", or the name of the tool to call."""
    enable_thinking: bool | None
    """Let the model reason before it answers."""
    thinking_budget: int | None
    """Max tokens of reasoning."""
    response_format: ResponseFormat
    """What the answer must be."""
    sampling_params: AnySamplingParams
    """The parameters that are no keywords."""


class ChatRequestOptions(ChatOptions, total=False):
    """The options of one request."""

    tools: Iterable[ToolLike]
    """Tools, Python functions with type hints, or dicts; a Toolbox gives its own."""
    continue_final_message: bool
    """Go on with the last message, the assistant's."""
    request_id: str
    """Unique among the running requests."""


def chat_request(messages: Messages, **options: Unpack[ChatRequestOptions]) -> wire.ChatRequest:
    """The message that asks for the next turn of a conversation."""
    keywords = {name: value for name, value in options.items() if name not in _OWN}
    conversation = Conversation(
        read_messages(messages),
        read_tools(options.get("tools") or ()),
        continue_final_message=options.get("continue_final_message", False),
    )
    request = wire.ChatRequest()
    for index, message in enumerate(conversation.messages):
        with field_errors(f"messages[{index}]"):
            request.messages.append(message.to_proto())
    for index, tool in enumerate(conversation.tools):
        with field_errors(f"tools[{index}]"):
            request.tools.append(tool.to_proto())
    _choose_tool(request, options.get("tool_choice"))
    _set_response_format(request, options.get("response_format"))
    params = with_keywords(options.get("sampling_params"), keywords, _OWN)
    set_sampling_params(request, params)
    set_fields(request, {name: value for name, value in options.items() if name in _PLAIN})
    return request


def _choose_tool(request: wire.ChatRequest, choice: ToolChoice | None) -> None:
    names = [tool.name for tool in request.tools]
    if choice in (None, "auto"):
        return
    if choice == "none" or (choice == "required" and names):
        request.tool_choice.mode = _MODES[choice]
        return
    name = choice if isinstance(choice, str) else _named_tool(choice)
    if name not in names:
        raise InvalidRequestError(
            "tool_choice",
            "tool_choice must be auto, none, required or the name of one of the tools "
            f"({', '.join(names) or 'there are none'}), got {name!r}",
        )
    request.tool_choice.name = name


def _named_tool(choice: object) -> object:
    """The name in OpenAI's form of a choice."""
    with errors_within("tool_choice"):
        fields = as_fields(choice, "tool_choice")
        if (kind := fields.get("type")) != "function":
            hint = "; give only these tools in tools" if kind == "allowed_tools" else ""
            raise InvalidRequestError(
                "type", f"tool_choice of type {kind!r} is not supported, only 'function'{hint}"
            )
        return as_fields(fields.get("function"), "tool_choice.function").get("name")


def _set_response_format(request: wire.ChatRequest, given: ResponseFormat) -> None:
    if isinstance(given, Mapping):
        given = _format_of(given)
    if given is None or given == "text":
        return
    if given == "json_object":
        request.response_format.json_object.SetInParent()
        return
    schema: object = given
    if isinstance(given, type) and hasattr(given, "model_json_schema"):
        schema = given.model_json_schema()
    if not isinstance(schema, Mapping):
        raise InvalidRequestError(
            "response_format",
            "response_format must be None, 'text', 'json_object', a JSON schema, a pydantic model "
            f"class or OpenAI's form of one, got {given!r}",
        )
    with field_errors("response_format"):
        request.response_format.json_schema = json.dumps(schema, ensure_ascii=False)


def _format_of(given: Mapping[str, Any]) -> ResponseFormat:
    """What OpenAI's form of a format says; a mapping without such a type is a JSON schema."""
    kind = given.get("type")
    if kind in ("text", "json_object"):
        return str(kind)
    if kind == "json_schema":
        inner = given.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else None
        if not isinstance(schema, Mapping):
            raise InvalidRequestError(
                "response_format.json_schema.schema",
                f"response_format.json_schema.schema must be a JSON schema, got {schema!r}",
            )
        return schema
    if isinstance(kind, str) and kind not in _JSON_TYPES:
        raise InvalidRequestError(
            "response_format.type",
            "response_format.type must be text, json_object, json_schema or a type of JSON, "
            f"got {kind!r}",
        )
    return given


_PLAIN = frozenset(
    (
        "enable_thinking",
        "thinking_budget",
        "priority",
        "cache_salt",
        "continue_final_message",
        "request_id",
    )
)
_OWN = _PLAIN | {"tools", "tool_choice", "response_format", "sampling_params"}
