"""GenerateOnce and ChatOnce: what Generate and Chat stream, in one answer.

A stream is read to its end, and must fit in one message. An answer that cannot fit is given up
while it grows, so that it takes no more memory and engine time. Near the limit its exact size
decides, once it is complete.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from folovllm.chat_outputs import ChatOutput, ChatResult
from folovllm.errors import InvalidRequestError
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.v1 import tokenizer_service_pb2, types_pb2
from folovllm.v1.tokenizer_service_pb2 import (
    ChatRequest,
    ChatResponse,
    GenerateRequest,
    GenerateResponse,
)
from tokenizer_service.handlers.chat import chat
from tokenizer_service.handlers.generate import generate
from tokenizer_service.handlers.services import Services

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

# What a streamed message has beyond its part of the whole answer, besides the request's id: tags,
# lengths and the index.
_FRAME_BYTES = 32
# Twice as much, since a tool call is streamed piece by piece and again when it is complete.
_MAX_STREAMED_BYTES = 2 * MAX_MESSAGE_BYTES

M = TypeVar("M", types_pb2.CompletionOutput, tokenizer_service_pb2.ChatOutput)
Wholes: TypeAlias = (
    "RepeatedCompositeFieldContainer[types_pb2.CompletionOutput]"
    " | RepeatedCompositeFieldContainer[tokenizer_service_pb2.ChatAnswer]"
)


async def generate_once(request: GenerateRequest, services: Services) -> GenerateResponse:
    """All n continuations of a prompt, complete."""
    _refuse_resume(request)
    response, joined = GenerateResponse(), RequestOutput()

    def add(delta: types_pb2.CompletionOutput) -> None:
        joined.add(CompletionOutput.from_proto(delta))

    await _join(generate(request, services), response.info, response.outputs, add)
    response.request_id = joined.request_id
    for message, output in zip(response.outputs, joined.outputs, strict=True):
        message.MergeFrom(output.to_proto())
    _check_fits(response)
    return response


async def chat_once(request: ChatRequest, services: Services) -> ChatResponse:
    """All n answers to a conversation, complete."""
    _refuse_resume(request)
    response, joined = ChatResponse(), ChatResult()

    def add(event: tokenizer_service_pb2.ChatOutput) -> None:
        joined.add(ChatOutput.from_proto(event))

    await _join(chat(request, services), response.info, response.answers, add)
    response.request_id = joined.request_id
    for message, answer in zip(response.answers, joined.answers, strict=True):
        message.MergeFrom(answer.to_proto())
    _check_fits(response)
    return response


async def _join(
    stream: AsyncGenerator[M, None],
    info: types_pb2.RequestInfo,
    wholes: Wholes,
    add: Callable[[M], None],
) -> None:
    """Adds every message of a stream to the whole answers, one for each index.

    RequestInfo, token ids and log-probabilities are moved as the messages that they are, since they
    may be long; `add` gets what remains of a message. Raises as the stream does, and
    InvalidRequestError for too large an answer.
    """
    size = 0
    async with aclosing(stream) as messages:
        async for message in messages:
            size += max(0, message.ByteSize() - _FRAME_BYTES - len(message.request_id.encode()))
            if size > _MAX_STREAMED_BYTES:
                raise _too_large()
            if message.HasField("info"):
                info.MergeFrom(message.info)
                message.ClearField("info")
                if _is_empty(message):
                    continue
            while len(wholes) <= message.index:
                wholes.add()
            wholes[message.index].token_ids.extend(message.token_ids)
            wholes[message.index].logprobs.extend(message.logprobs)
            message.ClearField("token_ids")
            message.ClearField("logprobs")
            add(message)


def _refuse_resume(request: GenerateRequest | ChatRequest) -> None:
    """Raises InvalidRequestError if it is to go on: its caller has received nothing yet."""
    if request.HasField("resume"):
        raise InvalidRequestError(
            "resume",
            "a call with one whole answer has nothing to go on from; call Generate or Chat",
        )


def _is_empty(message: types_pb2.CompletionOutput | tokenizer_service_pb2.ChatOutput) -> bool:
    """Whether a message had a part of a long info by itself."""
    if isinstance(message, types_pb2.CompletionOutput):
        return not (message.text or message.token_ids or message.finish_reason)
    return message.WhichOneof("event") is None


def _check_fits(response: GenerateResponse | ChatResponse) -> None:
    """Raises InvalidRequestError if the whole answer is too large for a message."""
    if response.ByteSize() > MAX_MESSAGE_BYTES:
        raise _too_large()


def _too_large() -> InvalidRequestError:
    return InvalidRequestError(
        "sampling_params",
        f"the whole answer is over the limit of {MAX_MESSAGE_BYTES} bytes for one message; call "
        "Generate or Chat, which stream it, or lower n, max_tokens or the number of logprobs",
    )
