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

    size = await join(chat(request, services), response.info, add, services.offload)
    await services.offload.run(size, _fill, response, joined)
    return response


def _fill(response: ChatResponse, joined: ChatResult) -> None:
    response.request_id = joined.request_id
    response.answers.extend(answer.to_proto() for answer in joined.answers)
    check_fits(response)
