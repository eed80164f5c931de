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

    size = await join(generate(request, services), response.info, add, services.offload)
    await services.offload.run(size, _fill, response, joined)
    return response


def _fill(response: GenerateResponse, joined: RequestOutput) -> None:
    response.request_id = joined.request_id
    response.outputs.extend(output.to_proto() for output in joined.outputs)
    check_fits(response)
