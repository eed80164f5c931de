"""Chat: a conversation to the engine's ids and back to typed events."""

from collections.abc import AsyncGenerator
from functools import partial

import structlog

from folovllm import chat_outputs
from folovllm.errors import errors_named_for
from folovllm.outputs import CompletionOutput
from folovllm.request_id import new_request_id
from folovllm.v1.tokenizer_service_pb2 import ChatOutput, ChatRequest
from tokenizer_service.chat.chat_processor import ChatProcessor
from tokenizer_service.handlers.answering import Answering
from tokenizer_service.handlers.engine_messages import is_long
from tokenizer_service.handlers.info_relay import InfoRelay, has_more
from tokenizer_service.handlers.resuming.resume_fields import (
    end_predecessor,
    replay_received,
    take_resume,
)
from tokenizer_service.handlers.resuming.resumption import Resumption
from tokenizer_service.handlers.services import Services


async def chat(request: ChatRequest, services: Services) -> AsyncGenerator[ChatOutput, None]:
    """The events of n answers to a conversation, or those that a broken stream still lacks."""
    resume = take_resume(request)
    request_id = request.request_id or new_request_id()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    answering = await Answering.read(request, resume, services)
    params, prompt = answering.params, answering.prompt
    processor = ChatProcessor(
        partial(answering.new_parser, request_id, services),
        include_stop_token=params.include_stop_str_in_output,
    )
    resumption = Resumption[chat_outputs.ChatOutput](
        request_id, params, len(prompt.token_ids), redraws=True
    )
    if resume is not None:
        await replay_received(resumption, resume, prompt, processor, services)
    end_predecessor(request, services)
    for first in resumption.first:
        yield first.to_proto()
    if resumption.is_complete:
        return
    relay = InfoRelay(params, (), prompt.fingerprint, was_received=resumption.has_info)
    named = errors_named_for(
        {"prompt_token_ids": "messages", **answering.constraints.engine_fields}
    )
    with named, resumption.errors_named():
        command = await answering.command(request, request_id, services)
        resumption.add_to(command.generate)
        numerics = request.resume.numerics_fingerprint if request.HasField("resume") else None
        with services.engines.generate(command, numerics) as stream:
            async for output in resumption.outputs(stream):
                if is_long(output):
                    await services.turns.take()
                if output.HasField("info"):
                    for part in relay.take(output):
                        yield ChatOutput(request_id=request_id, index=output.index, info=part)
                    if not has_more(output):
                        continue
                events, stops = processor.process(CompletionOutput.from_proto(output))
                if stops:
                    stream.abort([output.index])
                for event in resumption.unsent(output.index, events):
                    reply = event.to_proto()
                    if relay.has_pending:
                        if event.index:
                            yield ChatOutput(request_id=request_id, info=relay.release())
                        else:
                            relay.attach(reply)
                    yield reply
