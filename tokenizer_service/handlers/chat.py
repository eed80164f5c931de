"""Chat: a conversation to the engine's ids and back to typed events."""

from collections.abc import AsyncGenerator

import structlog

from folovllm.errors import errors_named_for
from folovllm.outputs import CompletionOutput
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.v1.tokenizer_service_pb2 import ChatOutput, ChatRequest
from tokenizer_service.chat.chat_processor import ChatProcessor
from tokenizer_service.chat.constraints import AnswerConstraints
from tokenizer_service.chat.markers import ThinkingState
from tokenizer_service.chat.parser import ChatParser
from tokenizer_service.handlers.engine_messages import generate_command, is_long
from tokenizer_service.handlers.info_relay import InfoRelay, has_more
from tokenizer_service.handlers.services import Services


async def chat(request: ChatRequest, services: Services) -> AsyncGenerator[ChatOutput, None]:
    """The events of n answers to a conversation."""
    # What is not set depends on the model's context and the length of the rendered prompt.
    params = SamplingParams.from_proto(request.sampling_params, SamplingParams(max_tokens=None))
    request_id = request.request_id or new_request_id()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    tools = await services.renderer.read_tools(request)
    # Their schemas are parsed, and written again for the engine.
    size = sum(tool.ByteSize() for tool in request.tools) + request.response_format.ByteSize()
    constraints = await services.offload.run(size, AnswerConstraints.from_proto, request, tools)
    if constraints.thinking_budget == 0:
        request.enable_thinking = False
    prompt_token_ids = (await services.renderer.render(request, services.caller)).token_ids
    thinking = services.markers.thinking_state(prompt_token_ids)
    if request.continue_final_message and thinking is ThinkingState.MAY_BEGIN:
        thinking = ThinkingState.OVER  # a message that is continued does not begin to reason

    def new_parser() -> ChatParser:
        return ChatParser(
            services.tokenizer, services.markers, params, thinking, constraints.may_call
        )

    processor = ChatProcessor(new_parser, include_stop_token=params.include_stop_str_in_output)
    with errors_named_for({"prompt_token_ids": "messages", **constraints.engine_fields}):
        command = await generate_command(request, request_id, prompt_token_ids, params, services)
        sent = command.generate.sampling_params
        if params.max_tokens is None:
            max_model_len = services.engines.model_info().max_model_len
            sent.max_tokens = max_model_len - len(prompt_token_ids)
        await services.offload.run(size, constraints.constrain, sent, services.markers, thinking)
        relay = InfoRelay(params)
        with services.engines.generate(command) as stream:
            async for output in stream:
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
                for event in events:
                    reply = event.to_proto()
                    if event.index == 0:
                        relay.attach(reply)
                    yield reply
