"""ChatOnce: what Chat streams, in one answer."""

from folovllm.chat_outputs import ChatOutput, ChatResult
from folovllm.v1 import tokenizer_service_pb2
from folovllm.v1.tokenizer_service_pb2 import ChatRequest, ChatResponse
from tokenizer_service.handlers.chat import chat
from tokenizer_service.handlers.services import Services
from tokenizer_service.handlers.whole_answers import check_fits, join


async def chat_once(request: ChatRequest, services: Services) -> ChatResponse:
    """All n answers to a conversation, complete."""
    response, joined = ChatResponse(), ChatResult()

    def add(event: tokenizer_service_pb2.ChatOutput) -> None:
        joined.add(ChatOutput.from_proto(event))

    await join(chat(request, services), response.info, response.answers, add)
    response.request_id = joined.request_id
    for message, answer in zip(response.answers, joined.answers, strict=True):
        message.MergeFrom(answer.to_proto())
    check_fits(response)
    return response
