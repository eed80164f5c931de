"""TokenizerServicer: the RPCs of folovllm.v1.TokenizerService, each served by its handler."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar, cast

import grpc

from folovllm.serving.active_calls import current_call, lasts_like_a_stream
from folovllm.serving.lanes.limits import MAX_SECONDS
from folovllm.v1 import tokenizer_service_pb2_grpc, types_pb2
from folovllm.v1.tokenizer_service_pb2 import StreamDetokenizeRequest, StreamDetokenizeResponse
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
from tokenizer_service.handlers.whole_answers import chat_once, generate_once
from tokenizer_service.text.limits import Limits
from tokenizer_service.text.offload import Offload
from tokenizer_service.text.tokenizer import Tokenizer

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request", contravariant=True)
Reply = TypeVar("Reply", covariant=True)


class _Method(Protocol[Request, Reply]):
    def __call__(self, request: Request, context: Context) -> Reply: ...


def _served_by(handler: Callable[[Request, Services], Reply]) -> _Method[Request, Reply]:
    """An RPC that does what its handler does."""

    def method(self: "TokenizerServicer", request: Request, context: Context) -> Reply:
        return handler(request, self._services)

    return cast(_Method[Request, Reply], method)


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
        max_rendering_seconds: float = MAX_SECONDS,
        descriptions: Callable[[], list[types_pb2.EngineState]] | None = None,
    ) -> None:
        """`descriptions` says more of the engines than they do themselves."""
        self._descriptions = descriptions or engines.descriptions
        offload = Offload()
        renderer = Renderer(
            chat_template or ChatTemplate(),
            tokenizer,
            max_prompt_bytes,
            offload,
            max_rendering_seconds,
        )
        self._services = Services(
            tokenizer,
            Limits(max_prompt_bytes),
            renderer,
            ChatMarkers.of(tokenizer),
            engines,
            offload,
        )

    async def warm_up(self) -> None:
        """Loads what the first conversation would otherwise wait for."""
        await self._services.renderer.warm_up()

    async def close(self) -> None:
        """Ends what was started beside the calls; none of them may be running."""
        await self._services.renderer.close()

    Generate = _served_by(generate)
    GenerateOnce = lasts_like_a_stream(_served_by(generate_once))
    Chat = _served_by(chat)
    ChatOnce = lasts_like_a_stream(_served_by(chat_once))
    Fork = _served_by(fork)
    Tokenize = _served_by(tokenize)
    Detokenize = _served_by(detokenize)
    ApplyChatTemplate = _served_by(apply_chat_template)
    CountTokens = _served_by(count_tokens)
    GetTokenizer = _served_by(get_tokenizer)

    def StreamDetokenize(
        self, requests: AsyncIterator[StreamDetokenizeRequest], context: Context
    ) -> AsyncIterator[StreamDetokenizeResponse]:
        return stream_detokenize(requests, self._services)

    async def Score(
        self, request: types_pb2.ScoreRequest, context: Context
    ) -> types_pb2.ScoreResponse:
        return await score(request, self._services, current_call.get().time_remaining())

    async def GetModelInfo(
        self, request: types_pb2.GetModelInfoRequest, context: Context
    ) -> types_pb2.ModelInfo:
        engines = self._services.engines
        info = types_pb2.ModelInfo()
        info.CopyFrom(engines.model_info())
        info.engines.extend(self._descriptions())
        return info
