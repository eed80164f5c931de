"""Messages and tools of a chat, from every form that they may be given in.

Those are the classes of `folovllm.chat`, the dicts of OpenAI's API, and objects that have
`model_dump()`, such as the messages that its client returns.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from folovllm.chat import ChatMessage, Role, Tool, ToolCall
from folovllm.errors import InvalidRequestError
from folovllm_client.api.requests import field_errors

ToolFunction = Callable[..., object]
Messages = str | Iterable[ChatMessage | Mapping[str, Any] | Any]
"""A conversation; one text is what the user says."""
ToolLike = Tool | ToolFunction | Mapping[str, Any]

_T = TypeVar("_T")
_MESSAGE_KEYS = frozenset(
    ("role", "content", "reasoning_content", "reasoning", "tool_calls", "tool_call_id", "refusal")
)
# What OpenAI's messages may have besides, and why it is refused.
_REFUSED_KEYS = {
    "audio": "audio is not supported, only text",
    "function_call": "function_call is not supported; give tool_calls",
    "name": "name is not supported, as chat templates have no place for it; put it in the content",
}
_ROLES = {str(role): role for role in Role} | {"developer": Role.SYSTEM}


def read_messages(messages: Messages) -> tuple[ChatMessage, ...]:
    """The messages of a conversation."""
    if isinstance(messages, str):
        return (ChatMessage(Role.USER, messages),)
    return tuple(_read_located("messages", messages, _message))


def read_tools(tools: Iterable[ToolLike]) -> tuple[Tool, ...]:
    """The tools that may be called."""
    return tuple(_read_located("tools", tools, _tool))


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


def _message(given: object) -> ChatMessage:
    if isinstance(given, ChatMessage):
        return given
    fields = as_fields(given, "a message")
    role = _role(fields.get("role"))
    for key, value in fields.items():
        implied = key == "name" and role is Role.TOOL  # by the call that is answered
        if key not in _MESSAGE_KEYS and value and not implied:
            raise InvalidRequestError(key, _REFUSED_KEYS.get(key, f"a message has no {key}"))
    reasoning = "reasoning" if fields.get("reasoning") else "reasoning_content"  # vLLM has both
    return ChatMessage(
        role,
        _content(fields, role),
        _text(reasoning, fields.get(reasoning)),
        tuple(_read_each("tool_calls", fields.get("tool_calls") or (), _tool_call)),
        _text("tool_call_id", fields.get("tool_call_id")),
    )


def _role(given: object) -> Role:
    if given == "function":
        raise InvalidRequestError(
            "role", "the role function is not supported; give the role tool and a tool_call_id"
        )
    if not isinstance(given, str) or given not in _ROLES:
        raise InvalidRequestError("role", f"role must be one of {', '.join(_ROLES)}, got {given!r}")
    return _ROLES[given]


def _content(fields: Mapping[str, Any], role: Role) -> str:
    """What is said: a text, or the texts of a list of parts, joined as they are."""
    content, refusal = fields.get("content"), fields.get("refusal")
    if isinstance(content, Iterable) and not isinstance(content, str | bytes | Mapping):
        content = "".join(_read_each("content", content, partial(_part, role=role)))
    if refusal and (content or role is not Role.ASSISTANT):
        reason = "is instead of content" if content else "is only the assistant's"
        raise InvalidRequestError("refusal", f"a refusal {reason}")
    return _text("content", content) or _text("refusal", refusal)


def _part(given: object, role: Role) -> str:
    fields = as_fields(given, "a part of a content")
    kind = fields.get("type", "text")
    if kind != "text" and not (kind == "refusal" and role is Role.ASSISTANT):
        raise InvalidRequestError("", f"a part of type {kind!r} is not supported, only 'text'")
    if not isinstance(text := fields.get(kind), str):
        raise InvalidRequestError(kind, f"{kind} must be a text, got {text!r}")
    return text


def _tool_call(given: object) -> ToolCall:
    if isinstance(given, ToolCall):
        return given
    fields = as_fields(given, "a tool call")
    function = _function(fields)
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
    function = _function(as_fields(given, "a tool"))
    return Tool(
        _text("name", function.get("name")),
        _text("description", function.get("description")),
        _json_text("parameters", function.get("parameters")),
    )


def _function(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function of a tool or call, whose fields may also be the tool's own."""
    if (kind := fields.get("type", "function")) != "function":
        raise InvalidRequestError("type", f"the type {kind!r} is not supported, only 'function'")
    return as_fields(fields.get("function", fields), "a function")


def as_fields(given: object, what: str) -> Mapping[str, Any]:
    """The fields of a dict, or of an object that has `model_dump()`."""
    dump = getattr(given, "model_dump", None)
    fields = dump() if dump is not None and not isinstance(given, type) else given
    if not isinstance(fields, Mapping):
        raise InvalidRequestError("", f"{what} cannot be given as {given!r}")
    return fields


def _text(field: str, value: object) -> str:
    """A text; None is an empty one."""
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(field, f"{field} must be a text, got {value!r}")
    return value or ""


def _json_text(field: str, value: object) -> str:
    """JSON that is given as text or as a dict."""
    if not isinstance(value, Mapping):
        return _text(field, value)
    with field_errors(field):
        return json.dumps(value, ensure_ascii=False)


def _read_located(field: str, values: Iterable[Any], read: Callable[[Any], _T]) -> Iterator[_T]:
    """Reads each value; an error's message begins with the field, as it may be any of many."""
    try:
        yield from _read_each(field, values, read)
    except InvalidRequestError as error:
        if error.field == field:
            raise
        raise InvalidRequestError(error.field, f"{error.field}: {error}") from None


def _read_each(field: str, values: Iterable[Any], read: Callable[[Any], _T]) -> Iterator[_T]:
    """Reads each value; an error names its index."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidRequestError(field, f"{field} must be a list, got {values!r}")
    for index, value in enumerate(values):
        try:
            yield read(value)
        except InvalidRequestError as error:
            raise error.within(f"{field}[{index}]") from None
