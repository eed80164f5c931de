"""ApplyChatTemplate and CountTokens on a real socket."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from folovllm.errors import FolovError, InvalidRequestError, UnsupportedError, from_rpc_error
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import tokenizer_service_pb2_grpc
from support.builders.sample_tokenizers import byte_tokenizer
from tokenizer_service.chat.template import ChatTemplate
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.text.tokenizer import Tokenizer

TEMPLATE = """
{%- if messages[0].role == 'tool' %}{{ raise_exception('a tool cannot begin') }}{% endif %}
{%- for message in messages %}{{ message.content }}<|im_end|>{% endfor %}
{%- if add_generation_prompt %}hello{% endif %}
"""
Request = messages.ApplyChatTemplateRequest
Count = messages.CountTokensRequest
Message, Tool = messages.ChatMessage, messages.Tool
USER = Message(role=messages.ROLE_USER, content="he")
Serve = Callable[[str], Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Gives the stub of a service with a template, and no engine."""
    async with AsyncExitStack() as stack:

        async def start(template: str) -> Any:
            engines = EnginePool(["127.0.0.1:1"], Fingerprints("", ""))
            stack.push_async_callback(engines.close)
            server = GrpcServer(ServerConfig(), TOKENIZER_SERVICE)
            tokenizer = Tokenizer(byte_tokenizer())
            servicer = TokenizerServicer(tokenizer, engines, 3000, ChatTemplate(template))
            tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(servicer, server.grpc)
            port = server.bind()
            await server.start()
            stack.push_async_callback(server.grpc.stop, None)
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            stack.push_async_callback(channel.close)
            return tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)

        yield start


async def error_of(call: Any) -> FolovError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_conversation_is_rendered_and_counted(serve: Serve) -> None:
    stub = await serve(TEMPLATE)
    for request, text, token_ids in (
        (Request(messages=[USER]), "he<|im_end|>hello", [256, 262, 259]),
        (Request(messages=[USER], add_generation_prompt=False), "he<|im_end|>", [256, 262]),
    ):
        answer = await stub.ApplyChatTemplate(request, timeout=20)
        assert (answer.text, list(answer.token_ids)) == (text, token_ids)
        counted = await stub.CountTokens(Count(conversation=request), timeout=20)
        assert counted.num_tokens == len(token_ids)


async def test_a_text_is_counted(serve: Serve) -> None:
    stub = await serve("")
    for text, num_tokens in (("", 0), ("hello w", 2), ("x" * 3000, 3000)):
        assert (await stub.CountTokens(Count(text=text), timeout=20)).num_tokens == num_tokens
    for count, field in ((Count(text="x" * 3001), "text"), (Count(), "input")):
        error = await error_of(stub.CountTokens(count, timeout=20))
        assert isinstance(error, InvalidRequestError) and error.field == field


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Request(), "messages"),
        (Request(messages=[USER, Message()]), "messages[1].role"),
        (Request(messages=[Message(role=messages.ROLE_TOOL)]), "messages"),
        (Request(messages=[Message(role=messages.ROLE_USER, content="x" * 3001)]), "messages"),
        (
            Request(messages=[USER], tools=[Tool(name="f", parameters="[]")]),
            "tools[0].parameters",
        ),
        (Request(messages=[USER], tools=[Tool(name="f" * 257)]), "tools[0].name"),
        (Request(messages=[USER], tools=[Tool(name="f", description="d" * 3000)]), "tools"),
        (Request(messages=[USER], continue_final_message=True), "continue_final_message"),
    ],
)
async def test_a_refused_conversation_is_named_by_its_path(
    serve: Serve, request_: messages.ApplyChatTemplateRequest, field: str
) -> None:
    stub = await serve(TEMPLATE)
    shown = await error_of(stub.ApplyChatTemplate(request_, timeout=20))
    assert isinstance(shown, InvalidRequestError) and shown.field == field
    counted = await error_of(stub.CountTokens(Count(conversation=request_), timeout=20))
    assert isinstance(counted, InvalidRequestError) and counted.field == f"conversation.{field}"
    assert str(shown) == str(counted)


async def test_a_model_without_a_template_has_no_conversations(serve: Serve) -> None:
    stub = await serve("")
    request = Request(messages=[USER])
    for call in (stub.ApplyChatTemplate(request), stub.CountTokens(Count(conversation=request))):
        error = await error_of(call)
        assert isinstance(error, UnsupportedError) and "has no chat template" in str(error)
