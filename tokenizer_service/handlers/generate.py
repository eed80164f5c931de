"""Generate: text or token ids to the engine's ids and back to text."""

from collections.abc import AsyncGenerator, Iterable, Sequence

import structlog

from folovllm.errors import InvalidRequestError, errors_named_for
from folovllm.outputs import CompletionOutput
from folovllm.request_id import new_request_id
from folovllm.v1 import types_pb2
from folovllm.v1.tokenizer_service_pb2 import GenerateRequest
from tokenizer_service.engines.stream import EngineStream
from tokenizer_service.handlers.engine_messages import generate_command, is_long
from tokenizer_service.handlers.info_relay import InfoRelay, has_more
from tokenizer_service.handlers.resuming.resume_fields import (
    end_predecessor,
    replay_received,
    requested_params,
    take_resume,
)
from tokenizer_service.handlers.resuming.resumption import Resumption
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.output_processor import OutputProcessor
from tokenizer_service.text.prompt import Prompt

Piece = types_pb2.CompletionOutput


async def generate(
    request: GenerateRequest, services: Services
) -> AsyncGenerator[types_pb2.CompletionOutput, None]:
    """The deltas of n continuations of a prompt, or those that a broken stream still lacks."""
    resume = take_resume(request)
    params = requested_params(request, resume)
    request_id = request.request_id or new_request_id()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    prompt = await _prompt(request, services)
    processor = OutputProcessor(services.tokenizer, params)
    resumption = Resumption[CompletionOutput](
        request_id, params, len(prompt.token_ids), redraws=False
    )
    if resume is not None:
        await replay_received(resumption, resume, prompt, processor, services)
    end_predecessor(request, services)
    for first in resumption.first:
        yield first.to_proto()
    if resumption.is_complete:
        return
    relay = InfoRelay(
        params,
        prompt.token_ids if request.return_prompt_token_ids else (),
        prompt.fingerprint,
        was_received=resumption.has_info,
    )
    named = errors_named_for({"prompt_token_ids": request.WhichOneof("prompt") or "prompt"})
    with named, resumption.errors_named():
        command = await generate_command(request, request_id, prompt.token_ids, params, services)
        resumption.add_to(command.generate)
        numerics = request.resume.numerics_fingerprint if request.HasField("resume") else None
        with services.engines.generate(command, numerics) as stream:
            async for output in resumption.outputs(stream):
                if is_long(output):
                    await services.turns.take()
                if output.HasField("info"):
                    for part in relay.take(output):
                        yield Piece(request_id=request_id, index=output.index, info=part)
                    if not has_more(output):
                        continue
                for reply in text_replies(output, processor, stream):
                    if relay.has_pending:
                        if reply.index:
                            yield Piece(request_id=request_id, info=relay.release())
                        else:
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


async def _prompt(request: GenerateRequest, services: Services) -> Prompt:
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
    return await services.offload.run(len(token_ids), Prompt.of, token_ids)
