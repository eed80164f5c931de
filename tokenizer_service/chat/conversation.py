"""Reads a request's conversation, whose size is checked first."""

from collections.abc import Iterator

from folovllm.chat import Conversation
from folovllm.errors import InvalidRequestError
from folovllm.v1 import tokenizer_service_pb2 as messages

ConversationRequest = messages.ChatRequest | messages.ApplyChatTemplateRequest


def read_conversation(request: ConversationRequest, max_bytes: int) -> Conversation:
    """The request's conversation. Raises InvalidRequestError naming the field."""
    check_size(request, max_bytes)
    return Conversation.from_proto(request)


def check_size(conversation: Conversation | ConversationRequest, max_bytes: int) -> None:
    """Raises InvalidRequestError if all texts together have more than `max_bytes` of UTF-8.

    It names `messages`, or `tools` if the messages by themselves fit.
    """
    num_bytes = 0
    for field, texts in (
        ("messages", _texts_of_messages(conversation)),
        ("tools", _texts_of_tools(conversation)),
    ):
        for text in texts:
            # An unpaired surrogate is refused later, if it is rendered.
            num_bytes += len(text if text.isascii() else text.encode(errors="surrogatepass"))
            if num_bytes > max_bytes:
                raise InvalidRequestError(
                    field, f"messages and tools are over the limit of {max_bytes} bytes"
                )


def _texts_of_messages(conversation: Conversation | ConversationRequest) -> Iterator[str]:
    for message in conversation.messages:
        yield from (message.content, message.reasoning_content, message.tool_call_id)
        for call in message.tool_calls:
            yield from (call.id, call.name, call.arguments)


def _texts_of_tools(conversation: Conversation | ConversationRequest) -> Iterator[str]:
    for tool in conversation.tools:
        yield from (tool.name, tool.description, tool.parameters)
