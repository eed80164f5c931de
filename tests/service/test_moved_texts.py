"""What callers of a tokenizer service read of answers whose engine is lost, at any token."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from folovllm.chat_outputs import ChatOutput, ChatResult
from folovllm.errors import UnavailableError
from folovllm.model_files import DEMO_MODEL
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import tokenizer_service_pb2_grpc, types_pb2
from support.builders.engine_pools import pool_of, until_each_ready
from support.fakes.engine import FakeEngine, Script, running
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.model import TextModel
from tokenizer_service.servicer import TokenizerServicer

MODEL = TextModel.from_folder(DEMO_MODEL)
GONE = UnavailableError("gone")
ANSWER = (
    "<think>\nI ask ó.\n</think>\n\nI look 🌍.\n<tool_call>\n"
    '{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
)
CHAT = messages.ChatRequest(
    request_id="r",
    messages=[messages.ChatMessage(role=messages.ROLE_USER, content="What is the weather?")],
    tools=[messages.Tool(name="get_weather", parameters='{"type": "object"}')],
)


class Service:
    """A tokenizer service before two engines that are like each other."""

    def __init__(self, stub: Any, pool: EnginePool, fakes: list[FakeEngine]) -> None:
        self.stub = stub
        self.pool = pool
        self.fakes = fakes

    async def read(self, call: Any, ids: list[int], cut: int | None) -> list[Any]:
        """All messages of a call that is answered by `ids`, from one engine up to `cut`."""
        whole = Script([[each] for each in ids], FinishReason.STOP)
        beginning = whole if cut is None else Script(whole.pieces[:cut], finish=None)
        for fake in self.fakes:
            fake.scripts = [beginning]
        reading = asyncio.ensure_future(self._read(call))
        if cut is not None:
            await self._until_sent(cut)
            for fake in self.fakes:
                fake.scripts = [whole]
            for fake in self.fakes:
                fake.fail_requests(GONE)
        return await reading

    async def _read(self, call: Any) -> list[Any]:
        return [message async for message in call]

    async def _until_sent(self, number: int) -> None:
        """Returns when so many ids have come of the request, which may have waited for none."""
        async with asyncio.timeout(20):
            while not any(fake.sessions[0].runs("r") for fake in self.fakes):
                await asyncio.sleep(0)
            while (stream := self.pool.find("r")) is None or (
                len(stream.progress[0].token_ids) < number
            ):
                await asyncio.sleep(0)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    fakes = [
        FakeEngine(
            fingerprint=MODEL.fingerprints.tokenizer,
            vocab_size=2048,
            chat_template_fingerprint=MODEL.fingerprints.chat_template,
        )
        for _ in range(2)
    ]
    for fake in fakes:
        fake.info.numerics_fingerprint = "x"
    expected = MODEL.fingerprints
    async with (
        running(fakes[0]) as first,
        running(fakes[1]) as second,
        pool_of(
            *(first.address, second.address),
            fingerprint=expected.tokenizer,
            template=expected.chat_template,
        ) as pool,
    ):
        await until_each_ready(pool, True, True)
        server = GrpcServer(ServerConfig(), TOKENIZER_SERVICE)
        servicer = TokenizerServicer(MODEL.tokenizer, pool, 10_000, MODEL.chat_template)
        tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(servicer, server.grpc)
        port = server.bind()
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
            yield Service(stub, pool, fakes)
        await server.grpc.stop(None)


def ids_of(text: str) -> list[int]:
    return MODEL.tokenizer.encode(text, add_special_tokens=False)


def comparable(result: ChatResult) -> object:
    """An answer without what may depend on where it was computed."""
    (answer,) = result.answers
    assert answer.finish is not None
    finish = replace(answer.finish, num_moves=0, metrics=None)
    calls = [(call.name, call.arguments) for call in answer.tool_calls]
    return answer.reasoning_content, answer.content, calls, answer.token_ids, finish


async def test_an_answer_with_tool_calls_is_the_same_wherever_its_engine_was_lost(
    service: Service,
) -> None:
    ids, results = ids_of(ANSWER), []
    for cut in (None, *range(0, len(ids), 4)):
        outputs = await service.read(service.stub.Chat(CHAT, timeout=20), ids, cut)
        results.append(ChatResult.join(map(ChatOutput.from_proto, outputs)))
    undisturbed, *moved = results
    assert undisturbed.answers[0].tool_calls[0].name == "get_weather"
    for result in moved:
        assert comparable(result) == comparable(undisturbed)
        finish = result.answers[0].finish
        assert finish is not None and finish.exact
        assert finish.num_moves == (result is not moved[0])  # which was only refused


async def test_text_is_cut_at_a_stop_string_wherever_its_engine_was_lost(
    service: Service,
) -> None:
    ids, results = ids_of("One two three, STOP here. And more of it."), []
    request = messages.GenerateRequest(
        request_id="r",
        text="Count",
        sampling_params=types_pb2.SamplingParams(stop=["STOP here"], max_tokens=99),
    )
    for cut in (None, *range(len(ids))):
        outputs = await service.read(service.stub.Generate(request, timeout=20), ids, cut)
        results.append(RequestOutput.join(map(CompletionOutput.from_proto, outputs)).outputs[0])
    undisturbed, *moved = results
    assert (undisturbed.text, undisturbed.stop_reason) == ("One two three, ", "STOP here")
    for output in moved:
        assert (output.text, output.stop_reason) == (undisturbed.text, undisturbed.stop_reason)
        assert output.token_ids == undisturbed.token_ids and output.usage and undisturbed.usage
        assert output.usage.completion_tokens == undisturbed.usage.completion_tokens
