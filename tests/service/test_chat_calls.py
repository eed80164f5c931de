"""Chat on a real socket, with a fake engine that replays the embedded model's token ids."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from folovllm.chat_outputs import ChatFinishReason, ChatOutput, ChatResult
from folovllm.errors import InvalidRequestError, UnsupportedError, from_rpc_error
from folovllm.model_files import DEMO_MODEL
from folovllm.outputs import FinishReason
from folovllm.sampling_params import SamplingParams
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import tokenizer_service_pb2_grpc, types_pb2
from support.builders.engine_pools import until_ready
from support.fakes.engine import FakeEngine, Script, running
from tokenizer_service.chat.template import ChatTemplate
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.model import TextModel
from tokenizer_service.servicer import TokenizerServicer

MODEL = TextModel.from_folder(DEMO_MODEL)
Request, Message, Tool = messages.ChatRequest, messages.ChatMessage, messages.Tool
Params = types_pb2.SamplingParams
REQUIRED = messages.ToolChoice(mode=messages.ToolChoice.MODE_REQUIRED)
USER = Message(role=messages.ROLE_USER, content="What is the weather in Oslo?")
WEATHER = Tool(
    name="get_weather",
    parameters='{"type": "object", "properties": {"city": {"type": "string"}}}',
)
ANSWER = (
    "<think>\nI ask.\n</think>\n\nI look.\n<tool_call>\n"
    '{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
)
CONTEXT = 1024


def ids_of(text: str) -> list[int]:
    return MODEL.tokenizer.encode(text, add_special_tokens=False)


def script(text: str, finish: FinishReason | None = FinishReason.STOP) -> Script:
    """An answer, id by id."""
    return Script([[i] for i in ids_of(text)], finish)


@dataclass
class Service:
    stub: Any
    engine: FakeEngine

    async def chat(self, request: messages.ChatRequest) -> ChatResult:
        outputs = [
            ChatOutput.from_proto(message) async for message in self.stub.Chat(request, timeout=20)
        ]
        return ChatResult.join(outputs)

    async def error_of(self, request: messages.ChatRequest) -> Exception:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.chat(request)
        return from_rpc_error(caught.value)

    @property
    def sent(self) -> types_pb2.Request:
        """The latest request at the engine."""
        return self.engine.calls[-1].request


Serve = Callable[..., Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a service before an engine with the given scripts."""
    async with AsyncExitStack() as stack:

        async def start(*scripts: Script, template: ChatTemplate = MODEL.chat_template) -> Service:
            engine = FakeEngine(
                scripts,
                MODEL.fingerprints.tokenizer,
                max_model_len=CONTEXT,
                vocab_size=2048,
                chat_template_fingerprint=MODEL.fingerprints.chat_template,
            )
            served = await stack.enter_async_context(running(engine))
            pool = EnginePool([served.address], MODEL.fingerprints)
            stack.push_async_callback(pool.close)
            pool.start()
            await until_ready(pool)
            server = GrpcServer(ServerConfig(), TOKENIZER_SERVICE)
            servicer = TokenizerServicer(MODEL.tokenizer, pool, 10_000, template)
            tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(servicer, server.grpc)
            port = server.bind()
            await server.start()
            stack.push_async_callback(server.grpc.stop, None)
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            stack.push_async_callback(channel.close)
            return Service(tokenizer_service_pb2_grpc.TokenizerServiceStub(channel), engine)

        yield start


async def test_an_answer_comes_as_typed_events(serve: Serve) -> None:
    service = await serve(script(ANSWER))
    result = await service.chat(Request(messages=[USER], tools=[WEATHER]))
    (answer,) = result.answers
    assert (answer.reasoning_content, answer.content) == ("I ask.", "I look.")
    (call,) = answer.tool_calls
    assert (call.name, call.parsed_arguments()) == ("get_weather", {"city": "Oslo"})
    assert answer.finish is not None and answer.finish.reason is ChatFinishReason.TOOL_CALLS
    assert answer.finish.usage is not None and answer.finish.metrics is not None
    assert answer.finish.usage.reasoning_tokens == len(ids_of("\nI ask.\n"))
    assert answer.token_ids == ids_of(ANSWER)
    assert result.info is not None and result.info.sampling_params.seed is not None


async def test_the_prompt_is_the_rendered_conversation_and_takes_the_whole_context(
    serve: Serve,
) -> None:
    service = await serve(script("yes<|im_end|>"))
    await service.chat(Request(request_id="mine", messages=[USER], cache_salt="s", priority=3))
    sent = service.sent
    text = f"<|im_start|>user\n{USER.content}<|im_end|>\n<|im_start|>assistant\n"
    assert list(sent.prompt_token_ids) == ids_of(text)
    assert sent.sampling_params.max_tokens == CONTEXT - len(sent.prompt_token_ids)
    assert (sent.request_id, sent.cache_salt, sent.priority) == ("mine", "s", 3)
    unbounded = SamplingParams(max_tokens=None).to_proto()
    await service.chat(Request(messages=[USER], sampling_params=unbounded))
    assert len(service.engine.calls) == 2
    assert service.sent.sampling_params.max_tokens == CONTEXT - len(sent.prompt_token_ids)


async def test_no_thinking_is_asked_of_the_template(serve: Serve) -> None:
    service = await serve(script("yes<|im_end|>"))
    for request in (
        Request(messages=[USER], enable_thinking=False),
        Request(messages=[USER], thinking_budget=0),
    ):
        await service.chat(request)
        ids = list(service.sent.prompt_token_ids)
        assert ids[-len(ids_of("<think>\n\n</think>\n\n")) :] == ids_of("<think>\n\n</think>\n\n")
        assert not service.sent.sampling_params.HasField("reasoning")


async def test_a_thinking_budget_and_a_format_bind_what_they_should(serve: Serve) -> None:
    service = await serve(script("yes<|im_end|>"))
    tokens = {"start_token_id": ids_of("<think>")[0], "end_token_id": ids_of("</think>")[0]}
    await service.chat(Request(messages=[USER], thinking_budget=9))
    assert service.sent.sampling_params.reasoning == Params.Reasoning(**tokens, max_tokens=9)
    any_object = messages.ResponseFormat(json_object=types_pb2.AnyJsonObject())
    await service.chat(Request(messages=[USER], response_format=any_object))
    assert service.sent.sampling_params.json_schema == '{"type": "object"}'
    assert service.sent.sampling_params.reasoning == Params.Reasoning(**tokens)
    choice = messages.ToolChoice(name="get_weather")
    await service.chat(Request(messages=[USER], tools=[WEATHER], tool_choice=choice))
    assert "get_weather" in service.sent.sampling_params.grammar


async def test_a_last_message_is_continued(serve: Serve) -> None:
    service = await serve(script(" is sunny.<|im_end|>"))
    begun = Message(role=messages.ROLE_ASSISTANT, content="It")
    request = Request(messages=[USER, begun], continue_final_message=True, thinking_budget=5)
    result = await service.chat(request)
    assert result.answers[0].content == " is sunny."
    ids = list(service.sent.prompt_token_ids)
    assert ids[-1:] == ids_of("It")
    assert not service.sent.sampling_params.HasField("reasoning")


async def test_a_stop_string_ends_content_and_aborts_at_the_engine(serve: Serve) -> None:
    service = await serve(script("<think>\nEND\n</think>\n\none END two", finish=None))
    result = await service.chat(Request(messages=[USER], sampling_params=Params(stop=["END"])))
    (answer,) = result.answers
    assert (answer.reasoning_content, answer.content) == ("END", "one ")
    assert answer.finish is not None and answer.finish.stop_reason == "END"
    assert service.engine.calls[0].aborted == {0}
    assert result.info is not None and result.info.sampling_params.stop == ("END",)


async def test_n_answers_are_each_their_own(serve: Serve) -> None:
    service = await serve(script("one<|im_end|>"), script("<think>\na\n</think>\n\ntwo<|im_end|>"))
    result = await service.chat(Request(messages=[USER], sampling_params=Params(n=2)))
    assert [answer.content for answer in result.answers] == ["one", "two"]
    assert [answer.reasoning_content for answer in result.answers] == ["", "a"]


async def test_a_cancelled_chat_is_cancelled_at_the_engine(serve: Serve) -> None:
    service = await serve(script("never ending", finish=None))
    call = service.stub.Chat(Request(messages=[USER]), timeout=20)
    await anext(aiter(call))
    call.cancel()
    await service.engine.calls[0].ended.wait()


LONG = Message(role=messages.ROLE_USER, content="word " * 1100)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Request(), "messages"),
        (Request(messages=[Message(content="a")]), "messages[0].role"),
        (
            Request(messages=[USER, Message(role=messages.ROLE_USER, reasoning_content="a")]),
            "messages[1].reasoning_content",
        ),
        (
            Request(
                messages=[
                    Message(
                        role=messages.ROLE_ASSISTANT,
                        tool_calls=[messages.ToolCall(name="f", arguments="[]")],
                    )
                ]
            ),
            "messages[0].tool_calls[0].arguments",
        ),
        (Request(messages=[USER], tools=[Tool()]), "tools[0].name"),
        (Request(messages=[USER], tools=[WEATHER, WEATHER]), "tools[1].name"),
        (Request(messages=[USER], tools=[Tool(name="f", parameters="x")]), "tools[0].parameters"),
        (
            Request(messages=[USER], tool_choice=REQUIRED),
            "tool_choice",
        ),
        (
            Request(messages=[USER], response_format=messages.ResponseFormat(json_schema="{")),
            "response_format.json_schema",
        ),
        (Request(messages=[USER], continue_final_message=True), "continue_final_message"),
        (Request(messages=[USER], sampling_params=Params(top_p=2.0)), "sampling_params.top_p"),
        (Request(messages=[LONG]), "messages"),
        (Request(messages=[LONG, LONG]), "messages"),
    ],
)
async def test_bad_requests_name_their_field_and_reach_no_engine(
    serve: Serve, request_: messages.ChatRequest, field: str
) -> None:
    service = await serve(script("yes"))
    error = await service.error_of(request_)
    assert isinstance(error, InvalidRequestError) and error.field == field
    assert service.engine.calls == []


@pytest.mark.parametrize(
    ("complaint", "request_", "field"),
    [
        ("prompt_token_ids", Request(messages=[USER]), "messages"),
        (
            "sampling_params.grammar",
            Request(messages=[USER], tools=[WEATHER], tool_choice=REQUIRED),
            "tools",
        ),
        (
            "sampling_params.json_schema",
            Request(messages=[USER], response_format=messages.ResponseFormat(json_schema="{}")),
            "response_format.json_schema",
        ),
    ],
)
async def test_the_engines_complaint_names_the_callers_field(
    serve: Serve, complaint: str, request_: messages.ChatRequest, field: str
) -> None:
    service = await serve(script("yes"))
    service.engine.refuse_with = InvalidRequestError(complaint, "no good")
    error = await service.error_of(request_)
    assert isinstance(error, InvalidRequestError) and error.field == field


async def test_a_model_without_a_template_does_not_chat(serve: Serve) -> None:
    service = await serve(script("yes"), template=ChatTemplate())
    assert isinstance(await service.error_of(Request(messages=[USER])), UnsupportedError)
