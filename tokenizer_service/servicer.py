"""TokenizerServicer: the RPCs of folovllm.v1.TokenizerService, each served by its handler."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from folovllm.v1 import tokenizer_service_pb2 as wire
from folovllm.v1 import tokenizer_service_pb2_grpc, types_pb2
from tokenizer_service.chat.markers import ChatMarkers
from tokenizer_service.chat.renderer import Renderer
from tokenizer_service.chat.template import ChatTemplate
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.handlers.apply_chat_template import apply_chat_template
from tokenizer_service.handlers.chat import chat
from tokenizer_service.handlers.count_tokens import count_tokens
from tokenizer_service.handlers.detokenize import detokenize
from tokenizer_service.handlers.fork import fork
from tokenizer_service.handlers.generate import generate
from tokenizer_service.handlers.get_tokenizer import get_tokenizer
from tokenizer_service.handlers.score import score
from tokenizer_service.handlers.services import Services
from tokenizer_service.handlers.stream_detokenize import stream_detokenize
from tokenizer_service.handlers.tokenize import tokenize
from tokenizer_service.text.limits import Limits
from tokenizer_service.text.tokenizer import Tokenizer

Context = grpc.aio.ServicerContext[Any, Any]


# The contract documents the RPCs.
# ruff: noqa: D102
class TokenizerServicer(tokenizer_service_pb2_grpc.TokenizerServiceServicer):
    """Encodes prompts, sends them to an engine, and turns its outputs into text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        engines: EnginePool,
        max_prompt_bytes: int,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        renderer = Renderer(chat_template or ChatTemplate(), tokenizer, max_prompt_bytes)
        self._services = Services(
            tokenizer, Limits(max_prompt_bytes), renderer, ChatMarkers.of(tokenizer), engines
        )

    async def warm_up(self) -> None:
        """Loads what the first conversation would otherwise wait for."""
        await self._services.renderer.warm_up()

    def Generate(
        self, request: wire.GenerateRequest, context: Context
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        return generate(request, self._services)

    def Chat(self, request: wire.ChatRequest, context: Context) -> AsyncIterator[wire.ChatOutput]:
        return chat(request, self._services)

    def Fork(
        self, request: types_pb2.ForkRequest, context: Context
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        return fork(request, self._services)

    async def Score(
        self, request: types_pb2.ScoreRequest, context: Context
    ) -> types_pb2.ScoreResponse:
        return await score(request, self._services, context.time_remaining())

    async def Tokenize(
        self, request: wire.TokenizeRequest, context: Context
    ) -> wire.TokenizeResponse:
        return await tokenize(request, self._services)

    async def Detokenize(
        self, request: wire.DetokenizeRequest, context: Context
    ) -> wire.DetokenizeResponse:
        return await detokenize(request, self._services)

    def StreamDetokenize(
        self, requests: AsyncIterator[wire.StreamDetokenizeRequest], context: Context
    ) -> AsyncIterator[wire.StreamDetokenizeResponse]:
        return stream_detokenize(requests, self._services)

    async def ApplyChatTemplate(
        self, request: wire.ApplyChatTemplateRequest, context: Context
    ) -> wire.ApplyChatTemplateResponse:
        return await apply_chat_template(request, self._services)

    async def CountTokens(
        self, request: wire.CountTokensRequest, context: Context
    ) -> wire.CountTokensResponse:
        return await count_tokens(request, self._services)

    def GetTokenizer(
        self, request: wire.GetTokenizerRequest, context: Context
    ) -> AsyncIterator[wire.TokenizerFileChunk]:
        return get_tokenizer(request, self._services)

    async def GetModelInfo(
        self, request: types_pb2.GetModelInfoRequest, context: Context
    ) -> types_pb2.ModelInfo:
        return self._services.engines.model_info()
