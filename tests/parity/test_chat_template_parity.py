"""Rendered conversations against transformers' apply_chat_template: the same text, the same ids."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from transformers import AutoTokenizer

from folovllm.errors import InvalidRequestError
from folovllm.model_files import DEMO_MODEL
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import tokenizer_service_pb2_grpc
from support.builders.chat_conversations import Example, examples
from support.builders.sample_tokenizers import QWEN3, needs_qwen3
from tokenizer_service.chat.renderer import Renderer
from tokenizer_service.chat.template import ChatTemplate
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.text.tokenizer import Tokenizer

MAX_PROMPT_BYTES = 1 << 20


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(DEMO_MODEL, id="embedded"),
        pytest.param(QWEN3, id="qwen3", marks=needs_qwen3),
    ],
)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def expected(reference: Any, example: Example) -> tuple[str, list[int]] | None:
    """Text and ids by transformers; None where it refuses."""
    options = {"tools": example.tools, **example.options}
    try:
        text = reference.apply_chat_template(example.messages, tokenize=False, **options)
    except ValueError:
        return None
    ids = reference.apply_chat_template(
        example.messages, tokenize=True, return_dict=False, **options
    )
    return text, list(ids)


async def test_generated_conversations(folder: Path, reference: Any) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    renderer = Renderer(ChatTemplate.from_folder(folder), tokenizer, MAX_PROMPT_BYTES)
    num_refused = 0
    for example in examples(count=240, seed=20):
        conversation = example.request()
        wanted = expected(reference, example)
        if wanted is None:
            num_refused += 1
            with pytest.raises(InvalidRequestError):
                await renderer.render(conversation)
        else:
            rendered = await renderer.render(conversation)
            assert (rendered.text, rendered.token_ids) == wanted, example
    assert num_refused < 10


@pytest.fixture
async def stub(folder: Path) -> AsyncIterator[Any]:
    """The calls of a tokenizer service on a socket; no engine is needed to render."""
    tokenizer = Tokenizer.from_folder(folder)
    engines = EnginePool(["127.0.0.1:1"], Fingerprints(tokenizer.fingerprint, ""))
    server = GrpcServer(ServerConfig(), TOKENIZER_SERVICE)
    tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(
        TokenizerServicer(tokenizer, engines, MAX_PROMPT_BYTES, ChatTemplate.from_folder(folder)),
        server.grpc,
    )
    port = server.bind()
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
    await server.grpc.stop(None)
    await engines.close()


async def test_through_the_service(stub: Any, reference: Any) -> None:
    for example in examples(count=20, seed=21):
        if (wanted := expected(reference, example)) is None:
            continue
        answer = await stub.ApplyChatTemplate(example.request(), timeout=20)
        assert (answer.text, list(answer.token_ids)) == wanted
        count = messages.CountTokensRequest(conversation=example.request())
        assert (await stub.CountTokens(count, timeout=20)).num_tokens == len(wanted[1])
