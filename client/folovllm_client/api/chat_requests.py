"""Chats as Python values, to the message of the contract.

Messages and tools may be given as the classes of `folovllm.chat` or as the dicts that OpenAI's API
takes. An invalid value raises InvalidRequestError, which names the field, before anything is sent;
the server checks what depends on the model.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, TypedDict, TypeVar, Unpack

from folovllm.chat import ChatMessage, Conversation, Role, Tool, ToolCall
from folovllm.errors import InvalidRequestError
from folovllm.v1 import tokenizer_service_pb2 as wire
from folovllm_client.api.requests import (
    AnySamplingParams,
    field_errors,
    set_fields,
    set_sampling_params,
)

ToolFunction = Callable[..., object]
Messages = str | Iterable[ChatMessage | Mapping[str, Any]]
"""A conversation; one text is what the user says."""
ToolLike = Tool | ToolFunction | Mapping[str, Any]
ResponseFormat = str | Mapping[str, Any] | type[Any] | None
"""None for free text, "json_object", a JSON schema, or a pydantic model class."""

MAX_TOOL_ROUNDS = 8
"""Default limit on the answers of a model that calls tools."""

_T = TypeVar("_T")
_MESSAGE_KEYS = frozenset(("role", "content", "reasoning_content", "tool_calls", "tool_call_id"))


class ChatOptions(TypedDict, total=False):
    """How to answer; the server has defaults."""

    tool_choice: str
    """"auto", "none", "required", or the name of the tool to call."""
    enable_thinking: bool | None
    """Let the model reason before it answers."""
    thinking_budget: int | None
    """Max tokens of reasoning."""
    response_format: ResponseFormat
    """What the answer must be."""
    sampling_params: AnySamplingParams
    """Sent as they are. SamplingParams() has max_tokens 16; None there is up to the context."""
    priority: int
    """Lower runs first."""
    cache_salt: str
    """Prefix-cache blocks are shared only among requests of equal salt."""


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
    unknown = options.keys() - ChatRequestOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"chat_request() got an unexpected keyword argument {unknown.pop()!r}")
    conversation = Conversation(
        read_messages(messages),
        read_tools(options.get("tools", ())),
        continue_final_message=options.get("continue_final_message", False),
    )
    request = wire.ChatRequest()
    for index, message in enumerate(conversation.messages):
        with field_errors(f"messages[{index}]"):
            request.messages.append(message.to_proto())
    for index, tool in enumerate(conversation.tools):
        with field_errors(f"tools[{index}]"):
            request.tools.append(tool.to_proto())
    _choose_tool(request, options.get("tool_choice", "auto"))
    _set_response_format(request, options.get("response_format"))
    set_sampling_params(request, options.get("sampling_params"))
    own = ("tools", "tool_choice", "response_format", "sampling_params")
    set_fields(request, {name: value for name, value in options.items() if name not in own})
    return request


def read_messages(messages: Messages) -> tuple[ChatMessage, ...]:
    """The messages of a conversation."""
    if isinstance(messages, str):
        return (ChatMessage(Role.USER, messages),)
    return tuple(_read_each("messages", messages, _message))


def read_tools(tools: Iterable[ToolLike]) -> tuple[Tool, ...]:
    """The tools that may be called."""
    return tuple(_read_each("tools", tools, _tool))


def message_as_dict(message: ChatMessage) -> dict[str, Any]:
    """A message in OpenAI's form, without empty fields other than the content."""
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in message.tool_calls
    ]
    fields = asdict(message) | {"role": str(message.role), "tool_calls": calls}
    return {name: value for name, value in fields.items() if value or name == "content"}


def _choose_tool(request: wire.ChatRequest, choice: str) -> None:
    names = [tool.name for tool in request.tools]
    if choice == "none":
        request.tool_choice.mode = wire.ToolChoice.MODE_NONE
    elif choice == "required" and names:
        request.tool_choice.mode = wire.ToolChoice.MODE_REQUIRED
    elif choice in names:
        request.tool_choice.name = choice
    elif choice != "auto":
        raise InvalidRequestError(
            "tool_choice",
            "tool_choice must be auto, none, required or the name of one of the tools "
            f"({', '.join(names) or 'there are none'}), got {choice!r}",
        )


def _set_response_format(request: wire.ChatRequest, given: ResponseFormat) -> None:
    if given is None:
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
            "response_format must be None, 'json_object', a JSON schema or a pydantic model class, "
            f"got {given!r}",
        )
    with field_errors("response_format"):
        request.response_format.json_schema = json.dumps(schema, ensure_ascii=False)


def _message(given: object) -> ChatMessage:
    if isinstance(given, ChatMessage):
        return given
    fields = _fields(given, "a message")
    for key, value in fields.items():
        if key not in _MESSAGE_KEYS and value:
            raise InvalidRequestError(str(key), f"a message has no {key}")
    role = fields.get("role")
    if role not in tuple(Role):
        raise InvalidRequestError("role", f"role must be one of {', '.join(Role)}, got {role!r}")
    return ChatMessage(
        Role(role),
        _text("content", fields.get("content")),
        _text("reasoning_content", fields.get("reasoning_content")),
        tuple(_read_each("tool_calls", fields.get("tool_calls") or (), _tool_call)),
        _text("tool_call_id", fields.get("tool_call_id")),
    )


def _tool_call(given: object) -> ToolCall:
    if isinstance(given, ToolCall):
        return given
    fields = _fields(given, "a tool call")
    function = _fields(fields.get("function", fields), "a function")
    return ToolCall(
        _text("id", fields.get("id")),
        _text("name", function.get("name")),
        _json_text("arguments", function.get("arguments")) or "{}",
    )


def _tool(given: object) -> Tool:
    if isinstance(given, Tool):
        return given
    if callable(given):
        # pydantic takes a while to import
        from folovllm_client.api.tool_schema import tool_from_function

        return tool_from_function(given)
    fields = _fields(given, "a tool")
    function = _fields(fields.get("function", fields), "a function")
    return Tool(
        _text("name", function.get("name")),
        _text("description", function.get("description")),
        _json_text("parameters", function.get("parameters")),
    )


def _fields(given: object, what: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise InvalidRequestError("", f"{what} cannot be given as {given!r}")
    return given


def _text(field: str, value: object) -> str:
    """A text; None is an empty one, and OpenAI's list of text parts is joined."""
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in value]
        if all(isinstance(part, str) for part in parts):
            return "".join(map(str, parts))
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(field, f"{field} must be a text, got {value!r}")
    return value or ""


def _json_text(field: str, value: object) -> str:
    """JSON that is given as text or as a dict."""
    if not isinstance(value, Mapping):
        return _text(field, value)
    with field_errors(field):
        return json.dumps(value, ensure_ascii=False)


def _read_each(field: str, values: Iterable[Any], read: Callable[[Any], _T]) -> Iterator[_T]:
    """Reads each value; an error names its index."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidRequestError(field, f"{field} must be a list, got {values!r}")
    for index, value in enumerate(values):
        try:
            yield read(value)
        except InvalidRequestError as error:
            raise error.within(f"{field}[{index}]") from None
