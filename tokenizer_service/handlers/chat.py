"""ChatCall: one call of Chat, from a conversation to the engine's ids and back to typed events."""

from collections.abc import AsyncGenerator
from dataclasses import replace

from folovllm.errors import InvalidRequestError
from folovllm.outputs import CompletionOutput
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import tokenizer_service_pb2, types_pb2
from tokenizer_service.chat.chat_processor import ChatProcessor
from tokenizer_service.chat.constraints import AnswerConstraints
from tokenizer_service.chat.markers import ChatMarkers, ThinkingState
from tokenizer_service.chat.parser import ChatParser
from tokenizer_service.chat.renderer import Renderer
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.handlers.generate import check_fits, without_text
from tokenizer_service.handlers.request_info import take_info
from tokenizer_service.text.codec import Codec


class ChatCall:
    """n answers to a conversation. Raises InvalidRequestError when made."""

    def __init__(
        self,
        request: tokenizer_service_pb2.ChatRequest,
        codec: Codec,
        renderer: Renderer,
        tokens: ChatMarkers,
    ) -> None:
        self.request_id = request.request_id or new_request_id()
        self._request = request
        self._codec = codec
        self._renderer = renderer
        self._tokens = tokens
        # What is not set is up to the context, which only the rendered prompt tells.
        self._params = SamplingParams.from_proto(
            request.sampling_params, SamplingParams(max_tokens=None)
        )

    async def outputs(
        self, engines: EnginePool
    ) -> AsyncGenerator[tokenizer_service_pb2.ChatOutput, None]:
        """The answers' events. Raises FolovError; closing it ends the request."""
        conversation = await self._renderer.read(self._request)
        constraints = AnswerConstraints.from_proto(self._request, conversation.tools)
        if constraints.thinking_budget == 0:
            conversation = replace(conversation, enable_thinking=False)
        prompt_token_ids = (await self._renderer.render(conversation)).token_ids
        thinking = self._thinking_state(prompt_token_ids)
        engine_request = await self._engine_request(prompt_token_ids, engines.model_info())
        constraints.constrain(engine_request.sampling_params, self._tokens, thinking)
        processor = self._processor(thinking, constraints)
        try:
            async for output in self._events(engines, engine_request, processor):
                yield output
        except InvalidRequestError as error:
            raise _in_callers_words(error, constraints) from None

    async def _engine_request(
        self, prompt_token_ids: list[int], model_info: types_pb2.ModelInfo
    ) -> types_pb2.Request:
        check_fits(prompt_token_ids, model_info, "messages")
        params = await without_text(self._request.sampling_params, self._params, self._codec)
        if not params.HasField("max_tokens"):
            params.max_tokens = model_info.max_model_len - len(prompt_token_ids)
        return types_pb2.Request(
            request_id=self.request_id,
            prompt_token_ids=prompt_token_ids,
            sampling_params=params,
            priority=self._request.priority,
            cache_salt=self._request.cache_salt,
        )

    async def _events(
        self, engines: EnginePool, engine_request: types_pb2.Request, processor: ChatProcessor
    ) -> AsyncGenerator[tokenizer_service_pb2.ChatOutput, None]:
        info: types_pb2.RequestInfo | None = None
        with engines.generate(engine_request) as run:
            async for message in run:
                info = take_info(message, self._params) or info
                outputs = processor.process(CompletionOutput.from_proto(message))
                if processor.to_abort(message.index):
                    run.abort([message.index])
                for output in outputs:
                    reply = output.to_proto()
                    if info is not None and output.index == 0:
                        reply.info.CopyFrom(info)
                        info = None
                    yield reply

    def _processor(self, thinking: ThinkingState, constraints: AnswerConstraints) -> ChatProcessor:
        params = self._params

        def new_parser() -> ChatParser:
            return ChatParser(
                self._codec.tokenizer, self._tokens, params, thinking, constraints.may_call
            )

        return ChatProcessor(
            params.n, new_parser, include_stop_token=params.include_stop_str_in_output
        )

    def _thinking_state(self, prompt_token_ids: list[int]) -> ThinkingState:
        """A message that is continued can go on with its reasoning, but not begin one."""
        state = self._tokens.thinking_state(prompt_token_ids)
        if self._request.continue_final_message and state is ThinkingState.MAY_BEGIN:
            return ThinkingState.OVER
        return state


def _in_callers_words(
    error: InvalidRequestError, constraints: AnswerConstraints
) -> InvalidRequestError:
    """The engine's complaint, by the field that the caller gave."""
    if error.field == "prompt_token_ids":
        return InvalidRequestError("messages", str(error))
    return constraints.blame(error)
