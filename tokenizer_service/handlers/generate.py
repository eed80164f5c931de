"""Generate: text or token ids to the engine's ids and back to text."""

from collections.abc import AsyncGenerator, Iterable, Sequence

import structlog

from folovllm.errors import InvalidRequestError, errors_named_for
from folovllm.outputs import CompletionOutput
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2
from folovllm.v1.tokenizer_service_pb2 import GenerateRequest
from tokenizer_service.engines.stream import EngineStream
from tokenizer_service.handlers.engine_messages import generate_command, is_long
from tokenizer_service.handlers.info_relay import InfoRelay, has_more
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.output_processor import OutputProcessor

Piece = types_pb2.CompletionOutput


async def generate(
    request: GenerateRequest, services: Services
) -> AsyncGenerator[types_pb2.CompletionOutput, None]:
    """The deltas of n continuations of a prompt."""
    params = SamplingParams.from_proto(request.sampling_params)
    request_id = request.request_id or new_request_id()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    prompt_token_ids = await _prompt_token_ids(request, services)
    processor = OutputProcessor(services.tokenizer, params)
    relay = InfoRelay(params, prompt_token_ids if request.return_prompt_token_ids else ())
    with errors_named_for({"prompt_token_ids": request.WhichOneof("prompt") or "prompt"}):
        command = await generate_command(request, request_id, prompt_token_ids, params, services)
        with services.engines.generate(command) as stream:
            async for output in stream:
                if is_long(output):
                    await services.turns.take()
                if output.HasField("info"):
                    for part in relay.take(output):
                        yield Piece(request_id=request_id, index=output.index, info=part)
                    if not has_more(output):
                        continue
                for reply in text_replies(output, processor, stream):
                    if relay.has_pending and reply.index == 0:
                        relay.attach(reply)
                    yield reply


def text_replies(
    output: types_pb2.CompletionOutput, processor: OutputProcessor, stream: EngineStream
) -> Iterable[types_pb2.CompletionOutput]:
    """What to send for an output of the engine; most often the message itself with its text."""
    if not output.finish_reason:
        text = processor.text_of(output.index, output.token_ids)
        if text is not None:
            output.text = text
            return (output,)
    processed, stops = processor.process(CompletionOutput.from_proto(output))
    if stops:
        stream.abort([output.index])
    return () if processed is None else (processed.to_proto(),)


async def _prompt_token_ids(request: GenerateRequest, services: Services) -> Sequence[int]:
    kind = request.WhichOneof("prompt")
    if kind is None:
        raise InvalidRequestError("prompt", "give the prompt as text or as token_ids")
    token_ids: Sequence[int] = request.token_ids.ids
    if kind == "token_ids":
        services.limits.check_num_token_ids(token_ids)
    else:
        services.limits.check_text(request.text)
        token_ids = await services.offload.run(
            len(request.text), services.tokenizer.encode, request.text
        )
    if not token_ids:
        raise InvalidRequestError(kind, "the prompt is empty; give it a text or token ids")
    return token_ids
