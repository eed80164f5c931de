"""What tests of resumed streams share: the messages of calls, joined, and what they resume with."""

from dataclasses import replace
from typing import Any

from folovllm.chat_outputs import ChatResult
from folovllm.outputs import RequestOutput
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm_client.api.calls.progress import Progress
from folovllm_client.api.calls.stream_readers import chat_reader, completion_reader

Request = messages.GenerateRequest | messages.ChatRequest


def call(stub: Any, request: Request) -> Any:
    is_chat = isinstance(request, messages.ChatRequest)
    return (stub.Chat if is_chat else stub.Generate)(request, timeout=20)


async def received(stub: Any, request: Request) -> list[Any]:
    return [message async for message in call(stub, request)]


def joined(all_messages: list[Any]) -> Any:
    """What a caller has of them in the end, without times and what the cache had."""
    is_chat = isinstance(all_messages[0], messages.ChatOutput)
    read: Any = chat_reader() if is_chat else completion_reader()
    outputs = [output for message in all_messages if (output := read(message)) is not None]
    if not is_chat:
        result = RequestOutput.join(outputs)
        assert result.finished and result.info
        for output in result.outputs:
            assert output.usage and output.exact and not output.num_moves
            output.metrics, output.info = None, None
            output.usage = replace(output.usage, cached_tokens=0)
        result.info = replace(result.info, cached_tokens=0)
        return result
    chat = ChatResult.join(outputs)
    assert chat.finished and chat.info
    chat.info = replace(chat.info, cached_tokens=0)
    for answer in chat.answers:
        assert answer.finish and answer.finish.usage and answer.finish.exact
        usage = replace(answer.finish.usage, cached_tokens=0)
        answer.finish = replace(answer.finish, metrics=None, usage=usage)
    return chat


def resume_after(request: Request, got: list[Any]) -> Any:
    """What the client would send next."""
    progress = Progress(request)
    read = progress.reader(lambda: lambda message: message)
    for message in got:
        read(message)
    return progress.next_request()
