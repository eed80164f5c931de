"""Reads a request's conversation, whose size is checked first."""

from collections.abc import Iterator

from folovllm.chat import Conversation
from folovllm.errors import InvalidRequestError
from folovllm.v1 import tokenizer_service_pb2 as messages

ConversationRequest = messages.ChatRequest | messages.ApplyChatTemplateRequest

# What the encoding of a message, a call or a tool adds to its texts at most: tags and lengths.
_MAX_FRAME_BYTES = 64
_CHAT, _APPLY_TEMPLATE = b"c", b"a"


def count_parts(request: ConversationRequest) -> int:
    """The number of messages, tool calls and tools, each of which costs a template something.

    Looks at no text. The contract bounds what it counts.
    """
    num_calls = sum(len(message.tool_calls) for message in request.messages)
    return len(request.messages) + num_calls + len(request.tools)


def request_bytes(request: ConversationRequest) -> bytes:
    """A request as another process reads it."""
    is_chat = isinstance(request, messages.ChatRequest)
    return (_CHAT if is_chat else _APPLY_TEMPLATE) + request.SerializeToString()


def request_from(data: bytes) -> ConversationRequest:
    """The inverse of `request_bytes`."""
    is_chat = data.startswith(_CHAT)
    kind = messages.ChatRequest if is_chat else messages.ApplyChatTemplateRequest
    return kind.FromString(data[1:])


def short_request() -> ConversationRequest:
    """A conversation that any template takes."""
    hello = messages.ChatMessage(role=messages.ROLE_USER, content="Hello")
    return messages.ApplyChatTemplateRequest(messages=[hello])


def num_bytes(request: ConversationRequest) -> int:
    """The bytes of a request without what is no part of its conversation."""
    size = request.ByteSize()
    if isinstance(request, messages.ChatRequest):
        size -= request.sampling_params.ByteSize()
    return size


def check_encoded_size(request: ConversationRequest, num_parts: int, max_bytes: int) -> None:
    """Raises InvalidRequestError if the texts surely have more than `max_bytes`.

    Takes far less time than `check_size`, which decides when the conversation is read.
    """
    allowed = max_bytes + num_parts * _MAX_FRAME_BYTES
    num_message_bytes = sum(message.ByteSize() for message in request.messages)
    if num_message_bytes > allowed:
        raise _too_large("messages", max_bytes)
    if num_message_bytes + sum(tool.ByteSize() for tool in request.tools) > allowed:
        raise _too_large("tools", max_bytes)


def read_conversation(request: ConversationRequest, max_bytes: int) -> Conversation:
    """The request's conversation. Raises InvalidRequestError naming the field."""
    check_size(request, max_bytes)
    return Conversation.from_proto(request)


def check_size(request: ConversationRequest, max_bytes: int) -> None:
    """Raises InvalidRequestError if all texts together have more than `max_bytes` of UTF-8.

    It names `messages`, or `tools` if the messages by themselves fit.
    """
    size = 0
    for field, texts in (
        ("messages", _texts_of_messages(request)),
        ("tools", _texts_of_tools(request)),
    ):
        for text in texts:
            size += len(text if text.isascii() else text.encode())
            if size > max_bytes:
                raise _too_large(field, max_bytes)


def _texts_of_messages(request: ConversationRequest) -> Iterator[str]:
    for message in request.messages:
        yield from (message.content, message.reasoning_content, message.tool_call_id)
        for call in message.tool_calls:
            yield from (call.id, call.name, call.arguments)


def _texts_of_tools(request: ConversationRequest) -> Iterator[str]:
    for tool in request.tools:
        yield from (tool.name, tool.description, tool.parameters)


def _too_large(field: str, max_bytes: int) -> InvalidRequestError:
    return InvalidRequestError(field, f"messages and tools are over the limit of {max_bytes} bytes")
