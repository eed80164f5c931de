"""What GenerateOnce and ChatOnce share: a stream is read to its end, and must fit in one message.

An answer that cannot fit is given up while it grows, so that it takes no more memory and engine
time. Near the limit its exact size decides, once it is complete.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from folovllm.errors import InvalidRequestError
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.v1 import tokenizer_service_pb2, types_pb2
from tokenizer_service.text.offload import Offload

# What a streamed message has beyond its part of the whole answer, besides the request's id: tags,
# lengths and the index.
_FRAME_BYTES = 32
# Twice as much, since a tool call is streamed piece by piece and again when it is complete.
_MAX_STREAMED_BYTES = 2 * MAX_MESSAGE_BYTES

M = TypeVar("M", types_pb2.CompletionOutput, tokenizer_service_pb2.ChatOutput)


async def join(
    stream: AsyncGenerator[M, None],
    info: types_pb2.RequestInfo,
    add: Callable[[M], None],
    offload: Offload,
) -> int:
    """Adds every message of a stream; returns their bytes, without what joining them saves.

    The RequestInfo is moved to `info` as the message that it is, since it may hold a long prompt's
    log-probabilities. Raises as the stream does, and InvalidRequestError for too large an answer.
    """
    size = 0
    async with aclosing(stream) as messages:
        async for message in messages:
            if message.HasField("info"):
                info.CopyFrom(message.info)
                message.ClearField("info")
                size += info.ByteSize()
            num_bytes = message.ByteSize()
            size += max(0, num_bytes - _FRAME_BYTES - len(message.request_id.encode()))
            if size > _MAX_STREAMED_BYTES:
                raise _too_large()
            # An engine that is ahead has large ones ready, one after the other.
            await offload.run(num_bytes, add, message)
    return size


def check_fits(
    response: tokenizer_service_pb2.GenerateResponse | tokenizer_service_pb2.ChatResponse,
) -> None:
    """Raises InvalidRequestError if the whole answer is too large for a message."""
    if response.ByteSize() > MAX_MESSAGE_BYTES:
        raise _too_large()


def _too_large() -> InvalidRequestError:
    return InvalidRequestError(
        "sampling_params",
        f"the whole answer is over the limit of {MAX_MESSAGE_BYTES} bytes for one message; call "
        "Generate or Chat, which stream it, or lower n, max_tokens or the number of logprobs",
    )
