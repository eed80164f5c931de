"""Streams that break and go on at another tokenizer service: real sockets, a fake model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, cast

import grpc
import pytest

from folovllm.errors import (
    CancelledRequestError,
    ConnectionLostError,
    InvalidRequestError,
    ModelMismatchError,
    UnavailableError,
    from_rpc_error,
)
from folovllm.model_files import DEMO_MODEL
from folovllm.outputs import FinishReason, RequestOutput
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2
from folovllm_client.api.async_client import AsyncClient
from support.builders.resumed_streams import Request, call, joined, received, resume_after
from support.fakes.engine_factory import make_engine
from support.fakes.speaker import Speaker
from support.processes.breaking_proxy import BreakingProxy
from support.processes.front_end import FrontEnd, front_end
from support.processes.joined_services import JoinedServices
from tokenizer_service.model import TextModel

MODEL = TextModel.from_folder(DEMO_MODEL)
Params = types_pb2.SamplingParams
CALLS = (
    "<think>\nI ask 😀.\n</think>\n\nI look.\n<tool_call>\n"
    '{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
)
SAYS = "Sunny, I say 😀. END of it<|im_end|>"
CHAT = messages.ChatRequest(
    request_id="r",
    messages=[messages.ChatMessage(role=messages.ROLE_USER, content="What is the weather?")],
    tools=[
        messages.Tool(
            name="get_weather",
            parameters='{"type": "object", "properties": {"city": {"type": "string"}}}',
        )
    ],
)
GENERATE = messages.GenerateRequest(request_id="r", text="hello", return_prompt_token_ids=True)
PARAMS = Params(n=2, logprobs=2, max_tokens=60, stop=["END"], temperature=0.5)


def ids_of(text: str) -> list[int]:
    return MODEL.tokenizer.encode(text, add_special_tokens=False)


EOS = ids_of("<|im_end|>")[0]


@dataclass
class Service:
    """An engine with two front ends."""

    joined: JoinedServices
    other: FrontEnd
    runner: Speaker

    @property
    def num_requests(self) -> int:
        """Requests that the engine has begun so far."""
        return self.joined.engine._streams.num_opened


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    runner = Speaker(4, 2048, [ids_of(CALLS), ids_of(SAYS)])
    llm_engine, _ = make_engine(
        runner=runner,
        vocab_size=2048,
        num_blocks=512,
        max_model_len=512,
        max_num_batched_tokens=512,
        eos_token_ids=(EOS,),
        tokenizer_fingerprint=MODEL.tokenizer.fingerprint,
        speculation="none",
    )
    joined = JoinedServices(llm_engine, runner, MODEL.tokenizer, MODEL.chat_template)
    async with AsyncExitStack() as stack:
        await joined.start()
        stack.push_async_callback(joined.stop)
        other = await stack.enter_async_context(front_end(MODEL, [joined.engine_address]))
        yield Service(joined, other, runner)


@pytest.mark.parametrize("request_", [GENERATE, CHAT], ids=["generate", "chat"])
async def test_any_message_may_be_the_last_one(service: Service, request_: Request) -> None:
    request_.sampling_params.CopyFrom(PARAMS)
    service.runner.step_seconds = 0.002
    whole = await received(service.joined.stub, request_)
    service.runner.step_seconds = 0.0
    expected = joined(whole)
    assert len(whole) > 20
    if isinstance(request_, messages.ChatRequest):
        (tool_call,) = expected.answers[0].tool_calls
        assert (
            tool_call.name == "get_weather" and expected.answers[1].content == "Sunny, I say 😀. "
        )
        assert expected.answers[0].reasoning_content == "I ask 😀."
    else:
        assert expected.outputs[1].stop_reason == "END"
    for count in range(1, len(whole), 3):
        rest = await received(service.other.stub, resume_after(request_, whole[:count]))
        assert all(message.request_id == "r" for message in rest)
        assert joined(whole[:count] + rest) == expected


async def test_a_stream_without_a_message_begins_anew_and_replaces_its_predecessor(
    service: Service,
) -> None:
    joined_services, runner = service.joined, service.joined.runner
    request = messages.GenerateRequest(request_id="r", text="hello")
    request.sampling_params.CopyFrom(Params(max_tokens=9, seed=3))
    expected = joined(await received(joined_services.stub, request))
    runner.hold()
    first = call(joined_services.stub, request)
    reading = asyncio.ensure_future(first.read())
    await joined_services.until_running()
    again = asyncio.ensure_future(received(joined_services.stub, resume_after(request, [])))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reading
    error = from_rpc_error(caught.value)
    assert isinstance(error, CancelledRequestError) and "resumed by another call" in str(error)
    runner.release()
    assert joined(await again) == expected
    await joined_services.until_free(512)


async def test_a_running_stream_is_resumed_by_another_call(service: Service) -> None:
    services, runner = service.joined, service.joined.runner
    request = messages.GenerateRequest(request_id="r", text="hello")
    request.sampling_params.CopyFrom(Params(max_tokens=30, seed=3))
    expected = joined(await received(services.stub, request))
    runner.hold(after=4)
    first = call(services.stub, request)
    got = [await first.read()]
    again = asyncio.ensure_future(received(services.stub, resume_after(request, got)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await first.read() is not grpc.aio.EOF:
            pass
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    runner.release()
    assert joined(got + await again) == expected


async def test_what_is_complete_asks_no_engine(service: Service) -> None:
    request = messages.ChatRequest()
    request.CopyFrom(CHAT)
    request.sampling_params.CopyFrom(Params(max_tokens=20, seed=1))
    whole = await received(service.joined.stub, request)
    num_requests = service.num_requests
    (last,) = await received(service.other.stub, resume_after(request, whole[:-1]))
    assert last.finish.reason == whole[-1].finish.reason
    assert last.finish.usage.completion_tokens == 20
    assert service.num_requests == num_requests


def resumed(**fields: Any) -> messages.GenerateRequest:
    request = messages.GenerateRequest(request_id="r", text="hello")
    request.resume.sampling_params.CopyFrom(Params(n=2, seed=1, max_tokens=20, temperature=1))
    request.resume.numerics_fingerprint = "exact"
    request.resume.outputs.add(index=1)
    for name, value in fields.items():
        if isinstance(value, str):
            setattr(request.resume, name, value)
        else:
            getattr(request.resume, name).MergeFrom(value)
    return request


def output(**fields: Any) -> list[types_pb2.ResumedOutput]:
    return [types_pb2.ResumedOutput(**fields)]


async def prompt_fingerprint(service: Service) -> str:
    request = messages.GenerateRequest(text="hello", sampling_params=Params(max_tokens=1))
    (message,) = await received(service.joined.stub, request)
    assert message.info.numerics_fingerprint == "exact"
    return cast(str, message.info.prompt_fingerprint)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"outputs": output(index=2)}, "resume.outputs[1].index"),
    ({"outputs": output(index=1)}, "resume.outputs[1].index"),
    ({"outputs": output(token_ids=[5] * 21)}, "resume.outputs[1].token_ids"),
    ({"outputs": output(token_ids=[3000])}, "resume.outputs[1].token_ids[0]"),
    (
        {"outputs": output(token_ids=[*ids_of("<|im_end|>"), 5])},
        "resume.outputs[1].token_ids[1]",
    ),
    ({"outputs": output(token_ids=[5], logprobs=[-1])}, "resume.outputs[1].logprobs"),
    (
        {"outputs": output(token_ids=[5], num_later_messages=1)},
        "resume.outputs[1].num_later_messages",
    ),
    ({"sampling_params": Params(temperature=-1)}, "resume.sampling_params.temperature"),
    (
        {"sampling_params": Params(top_p=0.5, allowed_token_ids=[5000])},
        "resume.sampling_params.allowed_token_ids",
    ),
]


async def test_what_cannot_be_is_refused_by_name(service: Service) -> None:
    fingerprint = await prompt_fingerprint(service)
    for fields, field in REFUSED:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await received(service.joined.stub, resumed(prompt_fingerprint=fingerprint, **fields))
        error = from_rpc_error(caught.value)
        assert isinstance(error, InvalidRequestError)
        assert error.field.startswith(field)


async def test_what_differs_is_refused(service: Service) -> None:
    fingerprint = await prompt_fingerprint(service)
    without_name = resumed()
    without_name.request_id = ""
    unresolved = resumed()
    unresolved.resume.sampling_params.ClearField("seed")
    ids = output(token_ids=[5])
    for request, kind, words in [
        (without_name, InvalidRequestError, "request_id must be|must be set with resume"),
        (unresolved, InvalidRequestError, "parameters of RequestInfo"),
        (resumed(prompt_fingerprint="ab"), ModelMismatchError, "prompt_fingerprint"),
        (
            resumed(prompt_fingerprint=fingerprint, numerics_fingerprint="others", outputs=ids),
            UnavailableError,
            "others",
        ),
    ]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await received(service.joined.stub, request)
        assert type(from_rpc_error(caught.value)) is kind
        assert caught.value.details() and any(
            word in str(caught.value.details()) for word in words.split("|")
        )


async def test_whole_answers_have_nothing_to_resume(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.joined.stub.GenerateOnce(resumed())
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidRequestError) and error.field == "resume"


async def test_the_client_goes_on_by_itself(service: Service) -> None:
    """Through a proxy that breaks connection after connection, and then not."""
    options: dict[str, Any] = {"n": 2, "logprobs": 2, "max_tokens": 60, "stop": ["END"], "seed": 4}
    async with (
        AsyncClient(service.other.address) as undisturbed,
        BreakingProxy(service.joined.address) as proxy,
        AsyncClient(proxy.address, timeout=20) as client,
    ):
        text = await undisturbed.generate("hello", **options)
        chat = await undisturbed.chat("hello", request_id="r", **options)
        service.runner.step_seconds = 0.002
        proxy.limits = [300, 900, 1500, 900]
        disturbed = await client.generate("hello", **options)
        assert proxy.num_broken == 4
        assert [(o.text, o.token_ids, o.logprobs) for o in disturbed.outputs] == [
            (o.text, o.token_ids, o.logprobs) for o in text.outputs
        ]
        assert [o.finish_reason for o in disturbed.outputs] == [FinishReason.STOP] * 2
        assert disturbed.prompt_token_ids == text.prompt_token_ids
        async with AsyncClient(proxy.address, timeout=20) as chatting:
            proxy.limits = [700, 900, 900]
            answers = (await chatting.chat("hello", request_id="r", **options)).answers
        assert [(a.content, a.reasoning_content, a.token_ids, a.logprobs) for a in answers] == [
            (a.content, a.reasoning_content, a.token_ids, a.logprobs) for a in chat.answers
        ]


async def test_without_resume_a_broken_connection_is_an_error(service: Service) -> None:
    async with (
        BreakingProxy(service.joined.address) as proxy,
        AsyncClient(proxy.address, timeout=20) as client,
    ):
        proxy.limits = [1000]
        with pytest.raises(ConnectionLostError):
            await client.generate("hello", max_tokens=60, n=2, logprobs=2, resume=False)


async def test_the_client_asks_another_server(service: Service) -> None:
    async with AsyncExitStack() as stack:
        gone = await stack.enter_async_context(front_end(MODEL, [service.joined.engine_address]))
        client = AsyncClient([gone.address, service.other.address], timeout=20)
        await stack.enter_async_context(client)
        service.joined.runner.hold(after=5)
        stream = client.stream("hello", max_tokens=30, seed=2)
        pieces = [await anext(stream)]
        await gone.server.grpc.stop(0)
        service.joined.runner.release()
        pieces += [piece async for piece in stream]
        expected = await client.generate("hello", max_tokens=30, seed=2)
        assert client.address == service.other.address
        assert RequestOutput.join(pieces).outputs[0].token_ids == expected.outputs[0].token_ids
