"""GenerateOnce: what Generate streams, in one answer."""

from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.v1 import types_pb2
from folovllm.v1.tokenizer_service_pb2 import GenerateRequest, GenerateResponse
from tokenizer_service.handlers.generate import generate
from tokenizer_service.handlers.services import Services
from tokenizer_service.handlers.whole_answers import check_fits, join


async def generate_once(request: GenerateRequest, services: Services) -> GenerateResponse:
    """All n continuations of a prompt, complete."""
    response, joined = GenerateResponse(), RequestOutput()

    def add(delta: types_pb2.CompletionOutput) -> None:
        joined.add(CompletionOutput.from_proto(delta))

    await join(generate(request, services), response.info, response.outputs, add)
    response.request_id = joined.request_id
    for message, output in zip(response.outputs, joined.outputs, strict=True):
        message.MergeFrom(output.to_proto())
    check_fits(response)
    return response
