"""GenerateOnce and ChatOnce on real sockets: the joined stream, its errors, and what they free."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from engine_service.core.outputs import ScheduledSequence
from folovllm.chat import ToolCall
from folovllm.chat_outputs import ChatOutput, ChatResult
from folovllm.errors import InvalidRequestError, from_rpc_error
from folovllm.model_files import DEMO_MODEL
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2
from folovllm.v1.tokenizer_service_pb2 import (
    ChatRequest,
    ChatResponse,
    GenerateRequest,
    GenerateResponse,
)
from folovllm_client.api.calls.stream_readers import chat_reader
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import FakeModelRunner
from support.processes.joined_services import JoinedServices
from tokenizer_service.handlers import whole_answers
from tokenizer_service.model import TextModel

MODEL = TextModel.from_folder(DEMO_MODEL)
Params = types_pb2.SamplingParams
USER = messages.ChatMessage(role=messages.ROLE_USER, content="What is the weather in Oslo?")
WEATHER = messages.Tool(
    name="get_weather",
    parameters='{"type": "object", "properties": {"city": {"type": "string"}}}',
)
CALLS = (
    "<think>\nI ask.\n</think>\n\nI look.\n<tool_call>\n"
    '{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
)
SAYS = "Sunny, I say 😀. END of it<|im_end|>"
NUM_BLOCKS = 512


def ids_of(text: str) -> list[int]:
    return MODEL.tokenizer.encode(text, add_special_tokens=False)


class Speaker(FakeModelRunner):
    """Says CALLS at index 0 and SAYS at all others, again and again."""

    def _draw(self, kv: int, draw: ScheduledSequence) -> list[int]:
        done = draw.num_tokens - draw.num_prompt_tokens
        said = [ids_of(SAYS if index else CALLS) for index in draw.sample_indexes]
        return [ids[done % len(ids)] for ids in said]


class Service(JoinedServices):
    def __init__(self) -> None:
        runner = Speaker(4, 2048)
        llm_engine, _ = make_engine(
            runner=runner,
            vocab_size=2048,
            num_blocks=NUM_BLOCKS,
            max_model_len=1024,
            max_num_batched_tokens=1024,
            eos_token_ids=(ids_of("<|im_end|>")[0],),
            tokenizer_fingerprint=MODEL.tokenizer.fingerprint,
            speculation="none",
        )
        super().__init__(llm_engine, runner, MODEL.tokenizer, MODEL.chat_template)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    await service.start()
    yield service
    await service.stop()


async def joined_generate(service: Service, request: GenerateRequest) -> GenerateResponse:
    """The answer that the stream's pieces make."""
    pieces = [CompletionOutput.from_proto(each) async for each in service.stub.Generate(request)]
    joined = RequestOutput.join(pieces)
    assert joined.finished and joined.info is not None
    return GenerateResponse(
        request_id=joined.request_id,
        outputs=[replace(output, info=None).to_proto() for output in joined.outputs],
        info=joined.info.to_proto(),
    )


async def joined_chat(service: Service, request: ChatRequest) -> ChatResponse:
    """The answer that the stream's events make; calls get new ids each time."""
    read = chat_reader()
    events = [read(each) async for each in service.stub.Chat(request)]
    joined = ChatResult.join(event for event in events if event is not None)
    assert joined.finished and joined.info is not None
    return ChatResponse(
        request_id=joined.request_id,
        answers=[
            messages.ChatAnswer(
                index=answer.index,
                message=answer.message.to_proto(),
                finish=ChatOutput(answer.finish).to_proto().finish if answer.finish else None,
                token_ids=answer.token_ids,
                logprobs=[position.to_proto() for position in answer.logprobs],
            )
            for answer in joined.answers
        ],
        info=joined.info.to_proto(),
    )


def without_what_differs(
    response: GenerateResponse | ChatResponse,
) -> GenerateResponse | ChatResponse:
    """Without times, what the cache had, and the ids of calls, which are no part of the answer."""
    response.info.ClearField("cached_tokens")
    if isinstance(response, GenerateResponse):
        for output in response.outputs:
            assert output.HasField("metrics")
            output.ClearField("metrics")
            output.usage.ClearField("cached_tokens")
        return response
    for answer in response.answers:
        assert answer.finish.HasField("metrics")
        answer.finish.ClearField("metrics")
        answer.finish.usage.ClearField("cached_tokens")
        for call in answer.message.tool_calls:
            assert call.id
            call.ClearField("id")
    return response


@pytest.mark.parametrize(
    ("request_", "params"),
    [
        (GenerateRequest(text="hello", return_prompt_token_ids=True), {}),
        (GenerateRequest(token_ids=types_pb2.TokenIds(ids=[5, 6, 7])), {"n": 3, "max_tokens": 7}),
        (GenerateRequest(text="hello"), {"n": 2, "logprobs": 3, "prompt_logprobs": 1}),
        (GenerateRequest(text="hello"), {"n": 2, "stop": ["END", "ask"], "logprobs": 0}),
        (ChatRequest(messages=[USER], tools=[WEATHER]), {"n": 2}),
        (
            ChatRequest(messages=[USER], tools=[WEATHER]),
            {"n": 2, "logprobs": 2, "prompt_logprobs": 0},
        ),
        (ChatRequest(messages=[USER]), {"n": 3, "stop": ["END"]}),
        (ChatRequest(messages=[USER], tools=[WEATHER]), {"max_tokens": 30}),
    ],
)
async def test_the_answer_is_the_joined_stream(
    service: Service, request_: GenerateRequest | ChatRequest, params: dict[str, Any]
) -> None:
    request_.sampling_params.CopyFrom(Params(**{"max_tokens": 40, "seed": 1} | params))
    request_.request_id = "mine"
    streamed: GenerateResponse | ChatResponse
    answered: GenerateResponse | ChatResponse
    if isinstance(request_, GenerateRequest):
        streamed = await joined_generate(service, request_)
        answered = await service.stub.GenerateOnce(request_)
    else:
        streamed = await joined_chat(service, request_)
        answered = await service.stub.ChatOnce(request_)
    assert without_what_differs(answered) == without_what_differs(streamed)


async def test_a_completion_is_whole(service: Service) -> None:
    params = Params(n=2, max_tokens=24, stop=["END"], seed=1, logprobs=1)
    request = GenerateRequest(text="hello", sampling_params=params, return_prompt_token_ids=True)
    response = await service.stub.GenerateOnce(request)
    assert response.request_id.startswith("req-")
    first, second = (CompletionOutput.from_proto(output) for output in response.outputs)
    assert (first.index, first.finish_reason) == (0, FinishReason.LENGTH)
    assert (second.index, second.finish_reason) == (1, FinishReason.STOP)
    assert (second.text, second.stop_reason) == ("Sunny, I say 😀. ", "END")
    assert second.token_ids == ids_of(SAYS)[: len(second.token_ids)]
    assert len(second.logprobs) == len(second.token_ids)
    assert response.info.sampling_params.seed == 1 and not response.outputs[0].HasField("info")
    assert list(response.info.prompt_token_ids) == MODEL.tokenizer.encode("hello")


async def test_an_answer_is_the_next_message(service: Service) -> None:
    request = ChatRequest(messages=[USER], tools=[WEATHER], sampling_params=Params(n=2))
    response = await service.stub.ChatOnce(request)
    calls, says = response.answers
    assert (calls.message.role, calls.message.content) == (messages.ROLE_ASSISTANT, "I look.")
    assert calls.message.reasoning_content == "I ask."
    call = ToolCall.from_proto(calls.message.tool_calls[0])
    assert (call.name, call.parsed_arguments()) == ("get_weather", {"city": "Oslo"})
    assert calls.finish.reason == messages.CHAT_FINISH_REASON_TOOL_CALLS
    assert list(calls.token_ids) == ids_of(CALLS)
    assert (says.index, says.message.content) == (1, "Sunny, I say 😀. END of it")
    assert says.finish.WhichOneof("stop_reason") == "eos"
    # The conversation goes on with it.
    request.messages.append(calls.message)
    request.messages.add(role=messages.ROLE_TOOL, content="sunny", tool_call_id=call.id)
    again = await service.stub.ChatOnce(request)
    assert again.answers[0].finish.usage.prompt_tokens > calls.finish.usage.prompt_tokens


async def error_of(call: object) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            _ = [message async for message in call]
        else:
            await call  # type: ignore[misc]
    error = from_rpc_error(refused.value)
    field = error.field if isinstance(error, InvalidRequestError) else ""
    return refused.value.code(), field, str(error)


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest(),
        GenerateRequest(text="a" * 20_000),
        GenerateRequest(text="a", sampling_params=Params(top_p=2.0)),
        GenerateRequest(text="a", sampling_params=Params(max_tokens=5000)),
        GenerateRequest(text="a", sampling_params=Params(json_schema="{")),
        GenerateRequest(token_ids=types_pb2.TokenIds(ids=[5000])),
        ChatRequest(),
        ChatRequest(messages=[USER], tool_choice=messages.ToolChoice(name="none")),
        ChatRequest(messages=[USER], sampling_params=Params(n=200)),
    ],
)
async def test_errors_are_those_of_the_stream(
    service: Service, request_: GenerateRequest | ChatRequest
) -> None:
    stub = service.stub
    if isinstance(request_, GenerateRequest):
        answered, streamed = stub.GenerateOnce(request_), stub.Generate(request_)
        assert await error_of(answered) == await error_of(streamed)
    else:
        assert await error_of(stub.ChatOnce(request_)) == await error_of(stub.Chat(request_))


def endless(service: Service, chats: bool, timeout: float) -> grpc.aio.UnaryUnaryCall[Any, Any]:
    params = Params(n=3, max_tokens=500, ignore_eos=True)
    if chats:
        request = ChatRequest(messages=[USER], sampling_params=params)
        return service.stub.ChatOnce(request, timeout=timeout)
    return service.stub.GenerateOnce(
        GenerateRequest(text="a", sampling_params=params), timeout=timeout
    )


@pytest.mark.parametrize("chats", [False, True])
async def test_a_caller_that_leaves_frees_the_blocks(service: Service, chats: bool) -> None:
    service.runner.hold(after=3)
    call = endless(service, chats, timeout=20)
    await service.until_running()
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED
    service.runner.release()
    await service.until_free(NUM_BLOCKS)


async def test_a_deadline_ends_it(service: Service) -> None:
    service.runner.hold(after=3)
    call = endless(service, chats=False, timeout=0.1)
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    service.runner.release()
    await service.until_free(NUM_BLOCKS)


@pytest.mark.parametrize("chats", [False, True])
async def test_what_is_too_large_for_a_message_is_for_the_stream(
    service: Service, monkeypatch: pytest.MonkeyPatch, chats: bool
) -> None:
    params = Params(max_tokens=60, ignore_eos=True, logprobs=5, seed=1)

    async def answer() -> GenerateResponse | ChatResponse:
        if chats:
            return await service.stub.ChatOnce(ChatRequest(messages=[USER], sampling_params=params))
        return await service.stub.GenerateOnce(
            GenerateRequest(text="hello", sampling_params=params)
        )

    def limit(size: int) -> None:
        monkeypatch.setattr(whole_answers, "MAX_MESSAGE_BYTES", size)
        monkeypatch.setattr(whole_answers, "_MAX_STREAMED_BYTES", 2 * size)

    size = (await answer()).ByteSize()
    limit(size + 50)  # the times and the id take more or fewer bytes each time
    await answer()
    limit(size - 50)
    code, field, message = await error_of(answer())
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "sampling_params")
    assert f"over the limit of {size - 50} bytes" in message and "which stream it" in message


async def test_what_grows_too_large_is_given_up_while_it_runs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_answers, "_MAX_STREAMED_BYTES", 20_000)
    params = Params(n=2, max_tokens=900, ignore_eos=True, logprobs=20)
    request = GenerateRequest(text="hello", sampling_params=params)
    code, _, _ = await error_of(service.stub.GenerateOnce(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    await service.until_free(NUM_BLOCKS)
    assert len(service.runner.steps) < 300


async def test_a_draining_service_takes_no_new_one_and_finishes_those_that_run(
    service: Service,
) -> None:
    service.runner.hold(after=2)
    running = service.stub.ChatOnce(ChatRequest(messages=[USER]))
    await service.until_running()
    assert not await service.server.active_calls.drain(0)
    # Without a drain they would be invalid.
    late = service.stub.ChatOnce(ChatRequest()), service.stub.GenerateOnce(GenerateRequest())
    for call in late:
        assert (await error_of(call))[0] is grpc.StatusCode.UNAVAILABLE
    service.runner.release()
    assert (await running).answers[0].message.reasoning_content == "I ask."
