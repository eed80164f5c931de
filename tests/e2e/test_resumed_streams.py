"""Streams of the embedded model that break and go on at another front end, with grammars too."""

import json
from collections.abc import AsyncIterator, Iterable

import pytest

from engine_service.config import SchedulerConfig
from engine_service.engine.async_engine import AsyncEngine
from engine_service.servicer import EngineServicer
from folovllm.model_files import DEMO_MODEL
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import engine_service_pb2_grpc, types_pb2
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm_client.llm.engine_args import EngineArgs
from folovllm_client.llm.loading import load_engine
from support.builders.resumed_streams import joined, received, resume_after
from support.processes.front_end import front_end
from tokenizer_service.model import TextModel

MODEL = TextModel.from_folder(DEMO_MODEL)
PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Anna", "Bob"]}, "age": {"enum": [11, 12]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ASK = messages.ChatMessage(role=messages.ROLE_USER, content="Who is Anna? She is 12.")
TOOL = messages.Tool(name="note", parameters=json.dumps(PERSON))
REQUESTS = {
    "json": messages.ChatRequest(
        messages=[ASK],
        enable_thinking=False,
        response_format=messages.ResponseFormat(json_schema=json.dumps(PERSON)),
    ),
    "tool": messages.ChatRequest(
        messages=[ASK],
        tools=[TOOL],
        tool_choice=messages.ToolChoice(name="note"),
        thinking_budget=9,
    ),
}


PARAMS = types_pb2.SamplingParams(
    n=2, logprobs=1, temperature=1, max_tokens=80, frequency_penalty=0.5, seed=5
)


def cuts(count: int) -> Iterable[int]:
    """The last messages of a stream, where its ends are, and some of the others."""
    return [1, count // 2, *range(max(2, count - 4), count)]


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """An engine whose results are reproducible."""
    args = EngineArgs(dtype="float32", deterministic=True)
    engine = AsyncEngine(lambda: load_engine(args, MODEL), SchedulerConfig())
    server = GrpcServer(ServerConfig(), ENGINE_SERVICE)
    engine_service_pb2_grpc.add_EngineServiceServicer_to_server(
        EngineServicer(engine, server.active_calls), server.grpc
    )
    address = f"127.0.0.1:{server.bind()}"
    await server.start()
    await engine.start()
    await server.set_serving(True)
    yield address
    await server.drain()
    await engine.stop()


async def test_what_comes_is_what_would_have_come(address: str) -> None:
    template = MODEL.fingerprints.chat_template
    async with (
        front_end(MODEL, [address], template_fingerprint=template) as first,
        front_end(MODEL, [address], template_fingerprint=template) as other,
    ):
        for name, request in REQUESTS.items():
            request.request_id = name
            request.sampling_params.CopyFrom(PARAMS)
            whole = await received(first.stub, request)
            expected = joined(whole)
            # A front end does not know that by itself.
            assert all(each.finish and each.finish.output_complete for each in expected.answers)
            for count in cuts(len(whole)):
                rest = await received(other.stub, resume_after(request, whole[:count]))
                assert joined(whole[:count] + rest) == expected
