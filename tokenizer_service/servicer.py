"""TokenizerServicer: the calls of folovllm.v1.TokenizerService.

A call is checked before any work in proportion to its input; every error names the field by the
path that the caller used.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import structlog

from folovllm.errors import InvalidRequestError
from folovllm.request_id import new_request_id
from folovllm.score import ScoreOutput
from folovllm.v1 import tokenizer_service_pb2, tokenizer_service_pb2_grpc, types_pb2
from tokenizer_service.chat.markers import ChatMarkers
from tokenizer_service.chat.renderer import Renderer
from tokenizer_service.chat.template import ChatTemplate
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.handlers.apply_chat_template import apply_chat_template
from tokenizer_service.handlers.chat import ChatCall
from tokenizer_service.handlers.count_tokens import count_tokens
from tokenizer_service.handlers.detokenize import detokenize
from tokenizer_service.handlers.fork import ForkCall
from tokenizer_service.handlers.generate import GenerateCall
from tokenizer_service.handlers.get_tokenizer import tokenizer_files
from tokenizer_service.handlers.score import engine_score_request, read_score
from tokenizer_service.handlers.stream_detokenize import StreamDetokenizeCall
from tokenizer_service.handlers.tokenize import tokenize
from tokenizer_service.text.codec import Codec
from tokenizer_service.text.scoring import encode_score
from tokenizer_service.text.tokenizer import Tokenizer

Context = grpc.aio.ServicerContext[Any, Any]


class TokenizerServicer(tokenizer_service_pb2_grpc.TokenizerServiceServicer):
    """Encodes prompts, sends them to an engine, and turns what comes back into text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        engines: EnginePool,
        max_prompt_bytes: int,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        self._codec = Codec(tokenizer, max_prompt_bytes)
        self._renderer = Renderer(chat_template or ChatTemplate(), self._codec)
        self._markers = ChatMarkers.of(tokenizer)
        self._tokenizer = tokenizer
        self._engines = engines

    async def warm_up(self) -> None:
        """Loads what the first conversation would else wait for."""
        await self._renderer.warm_up()

    async def Generate(
        self, request: tokenizer_service_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        """Generates n continuations of a prompt."""
        call = GenerateCall(request, self._codec)
        structlog.contextvars.bind_contextvars(request_id=call.request_id)
        async with aclosing(call.outputs(self._engines)) as outputs:
            async for output in outputs:
                yield output

    async def Fork(
        self, request: types_pb2.ForkRequest, context: Context
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        """Branches a running request."""
        fork = await asyncio.to_thread(ForkCall, request, self._tokenizer)
        structlog.contextvars.bind_contextvars(request_id=fork.fork_id, parent=request.request_id)
        async with aclosing(fork.outputs(self._engines)) as outputs:
            async for output in outputs:
                yield output.to_proto()

    async def Score(
        self, request: types_pb2.ScoreRequest, context: Context
    ) -> types_pb2.ScoreResponse:
        """Says how probable given continuations are."""
        request_id = request.request_id or new_request_id()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        prompt, continuations = read_score(request)
        self._check_score_size(prompt, continuations)
        model_info = self._engines.model_info()
        encoded = await asyncio.to_thread(
            encode_score,
            self._tokenizer,
            prompt,
            continuations,
            model_info.max_model_len,
        )
        engine_request = engine_score_request(request, request_id, encoded)
        response = await self._engines.score(engine_request, context.time_remaining())
        return encoded.scores(ScoreOutput.from_proto(response)).to_proto()

    async def Chat(
        self, request: tokenizer_service_pb2.ChatRequest, context: Context
    ) -> AsyncIterator[tokenizer_service_pb2.ChatOutput]:
        """Answers a conversation."""
        call = ChatCall(request, self._codec, self._renderer, self._markers)
        structlog.contextvars.bind_contextvars(request_id=call.request_id)
        async with aclosing(call.outputs(self._engines)) as outputs:
            async for output in outputs:
                yield output

    async def Tokenize(
        self, request: tokenizer_service_pb2.TokenizeRequest, context: Context
    ) -> tokenizer_service_pb2.TokenizeResponse:
        """Texts to token ids."""
        return await tokenize(request, self._codec)

    async def Detokenize(
        self, request: tokenizer_service_pb2.DetokenizeRequest, context: Context
    ) -> tokenizer_service_pb2.DetokenizeResponse:
        """Token ids to texts."""
        return await detokenize(request, self._codec, self._model_vocab_size())

    async def StreamDetokenize(
        self,
        requests: AsyncIterator[tokenizer_service_pb2.StreamDetokenizeRequest],
        context: Context,
    ) -> AsyncIterator[tokenizer_service_pb2.StreamDetokenizeResponse]:
        """Token ids to text while they arrive."""
        call = StreamDetokenizeCall(self._codec, self._model_vocab_size())
        async with aclosing(call.answers(requests)) as answers:
            async for answer in answers:
                yield answer

    async def ApplyChatTemplate(
        self, request: tokenizer_service_pb2.ApplyChatTemplateRequest, context: Context
    ) -> tokenizer_service_pb2.ApplyChatTemplateResponse:
        """Renders a conversation."""
        return await apply_chat_template(request, self._renderer)

    async def CountTokens(
        self, request: tokenizer_service_pb2.CountTokensRequest, context: Context
    ) -> tokenizer_service_pb2.CountTokensResponse:
        """Counts tokens."""
        return await count_tokens(request, self._codec, self._renderer)

    async def GetTokenizer(
        self, request: tokenizer_service_pb2.GetTokenizerRequest, context: Context
    ) -> AsyncIterator[tokenizer_service_pb2.TokenizerFileChunk]:
        """Sends the tokenizer's files."""
        async with aclosing(tokenizer_files(self._tokenizer)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def GetModelInfo(
        self, request: types_pb2.GetModelInfoRequest, context: Context
    ) -> types_pb2.ModelInfo:
        """The model that the engines serve."""
        return self._engines.model_info()

    def _model_vocab_size(self) -> int:
        """The model's where an engine has told it, which padding makes the larger one."""
        if not self._engines.ready:
            return self._tokenizer.vocab_size
        return max(self._tokenizer.vocab_size, self._engines.model_info().vocab_size)

    def _check_score_size(
        self, prompt: str | Sequence[int], continuations: Sequence[str | Sequence[int]]
    ) -> None:
        """The prompt with all continuations is bounded as a prompt is."""
        parts = (prompt, *continuations)
        num_bytes = sum(len(p.encode()) if isinstance(p, str) else len(p) for p in parts)
        most = self._codec.max_prompt_bytes
        if num_bytes > most:
            raise InvalidRequestError(
                "continuations",
                f"prompt and continuations are over the limit of {most} bytes",
            )
