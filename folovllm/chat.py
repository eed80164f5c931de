"""What a conversation is: messages, tool calls and tools, with their checks and converters.

Every check raises InvalidRequestError that names the field by its path in the request.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from folovllm.bounds.table import message_bounds
from folovllm.errors import InvalidRequestError, errors_within
from folovllm.message_fields import MessageFields
from folovllm.v1 import tokenizer_service_pb2 as wire

_BOUNDS = message_bounds(wire.ChatRequest.DESCRIPTOR)


class Role(StrEnum):
    """Who speaks; compares equal to its plain word."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


_ROLES = {wire.Role.Value(f"ROLE_{role.name}"): role for role in Role}


@dataclass(frozen=True, slots=True)
class ToolCall(MessageFields[wire.ToolCall]):
    """A tool call of the assistant; `arguments` is a JSON object as text."""

    message_type = wire.ToolCall

    id: str
    name: str
    arguments: str = "{}"

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidRequestError("name", "a tool call must name its tool")
        _json_object("arguments", self.arguments)

    def parsed_arguments(self) -> dict[str, Any]:
        """The arguments as values."""
        return _json_object("arguments", self.arguments)

    @classmethod
    def from_proto(cls, message: wire.ToolCall) -> "ToolCall":
        """Reads a message of the contract; without arguments they are an empty object."""
        return cls(message.id, message.name, message.arguments or "{}")


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: Role
    content: str = ""
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "role", Role(self.role))
        object.__setattr__(self, "tool_calls", tuple(self.tool_calls))
        for name in ("reasoning_content", "tool_calls"):
            if getattr(self, name) and self.role is not Role.ASSISTANT:
                raise InvalidRequestError(name, f"only the assistant has {name}, not {self.role}")
        if self.tool_call_id and self.role is not Role.TOOL:
            raise InvalidRequestError(
                "tool_call_id", f"only a tool's answer has a tool_call_id, not {self.role}"
            )

    def to_proto(self) -> wire.ChatMessage:
        """The message of the contract."""
        return wire.ChatMessage(
            role=wire.Role.Value(f"ROLE_{self.role.name}"),
            content=self.content,
            reasoning_content=self.reasoning_content,
            tool_calls=[call.to_proto() for call in self.tool_calls],
            tool_call_id=self.tool_call_id,
        )

    @classmethod
    def from_proto(cls, message: wire.ChatMessage) -> "ChatMessage":
        """Reads a message of the contract."""
        if message.role not in _ROLES:
            raise InvalidRequestError("role", f"role must be one of {', '.join(Role)}")
        return cls(
            _ROLES[message.role],
            message.content,
            message.reasoning_content,
            tuple(_each("tool_calls", message.tool_calls, ToolCall.from_proto)),
            message.tool_call_id,
        )


@dataclass(frozen=True, slots=True)
class Tool(MessageFields[wire.Tool]):
    """A tool that the assistant may call.

    `parameters` is the JSON schema of its arguments as text; empty if it has none.
    """

    message_type = wire.Tool

    name: str
    description: str = ""
    parameters: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidRequestError("name", "a tool must have a name")
        if self.parameters:
            _json_object("parameters", self.parameters)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        if not self.parameters:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return _json_object("parameters", self.parameters)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat template renders.

    enable_thinking None leaves the choice to the template. continue_final_message leaves the last
    message, the assistant's, open instead of rendering the beginning of a new turn.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] = ()
    enable_thinking: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    def __post_init__(self) -> None:
        max_messages, max_tools = _BOUNDS.max_count("messages"), _BOUNDS.max_count("tools")
        if not 1 <= len(self.messages) <= max_messages:
            raise InvalidRequestError(
                "messages", f"give 1 to {max_messages} messages, got {len(self.messages)}"
            )
        if len(self.tools) > max_tools:
            raise InvalidRequestError(
                "tools", f"give at most {max_tools} tools, got {len(self.tools)}"
            )
        seen: set[str] = set()
        for index, tool in enumerate(self.tools):
            if tool.name in seen:
                raise InvalidRequestError(f"tools[{index}].name", f"{tool.name} is listed twice")
            seen.add(tool.name)
        if self.continue_final_message and self.messages[-1].role is not Role.ASSISTANT:
            raise InvalidRequestError(
                "continue_final_message", "the last message is not the assistant's"
            )

    @classmethod
    def from_proto(
        cls, request: wire.ChatRequest | wire.ApplyChatTemplateRequest
    ) -> "Conversation":
        """Reads what both requests have in common."""
        add_generation_prompt = True
        if isinstance(request, wire.ApplyChatTemplateRequest) and request.HasField(
            "add_generation_prompt"
        ):
            add_generation_prompt = request.add_generation_prompt
        return cls(
            tuple(_each("messages", request.messages, ChatMessage.from_proto)),
            read_tools(request),
            request.enable_thinking if request.HasField("enable_thinking") else None,
            add_generation_prompt and not request.continue_final_message,
            request.continue_final_message,
        )


def read_tools(request: wire.ChatRequest | wire.ApplyChatTemplateRequest) -> tuple[Tool, ...]:
    """The tools of a request."""
    return tuple(_each("tools", request.tools, Tool.from_proto))


def _each(field: str, values: Iterable[Any], read: Any) -> Iterator[Any]:
    """Reads each value; an error names its index."""
    for index, value in enumerate(values):
        with errors_within(f"{field}[{index}]"):
            yield read(value)


def _json_object(field: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequestError(field, f"{field} must be a JSON object, got {text[:100]!r}")
    return value
