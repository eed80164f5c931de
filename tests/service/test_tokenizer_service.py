"""The calls of TokenizerService, on a real socket, with fake engines behind it."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from folovllm.errors import InvalidRequestError, RequestFailedError, from_rpc_error
from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import (
    tokenizer_service_pb2_grpc,
    types_pb2,
)
from support.builders.engine_pools import num_running
from support.builders.sample_tokenizers import EOS_ID, save_byte_tokenizer
from support.fakes.engine import FakeEngine, Script, running
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.text.tokenizer import Tokenizer

HELLO = Script([[*b"he"], [*b"llo"]])
ENDLESS = Script([[*b"hello"]], finish=None)
MAX_PROMPT_BYTES = 3000
Params = types_pb2.SamplingParams
Request = messages.GenerateRequest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_byte_tokenizer(tmp_path)


@dataclass
class Service:
    """A tokenizer service on a socket, and its engines."""

    stub: Any
    engines: list[FakeEngine]
    pool: EnginePool

    async def generate(self, request: Request, **options: Any) -> RequestOutput:
        return RequestOutput.join([output async for output in self.stream(request, **options)])

    async def stream(self, request: Request, **options: Any) -> AsyncIterator[CompletionOutput]:
        async for message in self.stub.Generate(request, timeout=20, **options):
            yield CompletionOutput.from_proto(message)

    async def error_of(self, call: Any) -> tuple[grpc.StatusCode, str, str]:
        """Code, field and message of a call that must fail."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if isinstance(call, grpc.aio.UnaryStreamCall):
                _ = [message async for message in call]
            else:
                await call
        error = from_rpc_error(caught.value)
        field = error.field if isinstance(error, InvalidRequestError) else ""
        return caught.value.code(), field, str(error)


@pytest.fixture
async def serve(model: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts a service on engines with the given scripts (a list for each), ready to be called."""
    tokenizer = Tokenizer.from_folder(model)
    async with AsyncExitStack() as stack:

        async def start(*scripts: list[Script], fingerprint: str | None = None) -> Service:
            expected = tokenizer.fingerprint if fingerprint is None else fingerprint
            engines = [FakeEngine(script, expected) for script in scripts]
            served = [await stack.enter_async_context(running(engine)) for engine in engines]
            pool = EnginePool(
                [s.address for s in served] or ["127.0.0.1:1"],
                Fingerprints(tokenizer.fingerprint, ""),
            )
            stack.push_async_callback(pool.close)
            pool.start()
            server = GrpcServer(ServerConfig(), TOKENIZER_SERVICE)
            servicer = TokenizerServicer(tokenizer, pool, MAX_PROMPT_BYTES)
            tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(servicer, server.grpc)
            port = server.bind()
            await server.start()
            stack.push_async_callback(server.grpc.stop, None)
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            stack.push_async_callback(channel.close)
            async with asyncio.timeout(20):
                while served and not all(
                    engine.ready or engine.refused for engine in pool._engines
                ):
                    await pool._changed.wait()
            stub = tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
            return Service(stub, engines, pool)

        yield start


async def test_text_streams_back(serve: Callable[..., Any]) -> None:
    service = await serve([HELLO])
    outputs = [output async for output in service.stream(Request(text="hello w"))]
    (output,) = RequestOutput.join(outputs).outputs
    assert (output.text, bytes(output.token_ids)) == ("hello", b"hello")
    assert output.finish_reason is FinishReason.LENGTH
    assert output.usage is not None and output.usage.completion_tokens == 5
    assert output.metrics is not None and output.metrics.queue == 0.25
    (call,) = service.engines[0].calls
    assert list(call.request.prompt_token_ids) == [259, 260]
    assert {o.request_id for o in outputs} == {call.request.request_id}
    assert re.fullmatch("req-[0-9a-f]{32}", call.request.request_id)


async def test_a_prompt_of_token_ids_is_taken_as_it_is(serve: Callable[..., Any]) -> None:
    service = await serve([HELLO])
    request = Request(
        request_id="mine", token_ids=types_pb2.TokenIds(ids=[1, 280]), priority=-3, cache_salt="s"
    )
    output = await service.generate(request)
    sent = service.engines[0].calls[0].request
    assert (list(sent.prompt_token_ids), sent.priority, sent.cache_salt) == ([1, 280], -3, "s")
    assert sent.request_id == output.request_id == "mine"


async def test_what_the_caller_did_not_set_stays_unset(serve: Callable[..., Any]) -> None:
    service = await serve([HELLO])
    params = Params(temperature=0, stop=["END"], stop_token_ids=[9])
    await service.generate(Request(text="a", sampling_params=params))
    sent = service.engines[0].calls[0].request.sampling_params
    assert sent.HasField("seed")  # so that any engine can go on with it
    sent.ClearField("seed")
    assert sent == Params(temperature=0, stop_token_ids=[9])
    assert sent.HasField("temperature") and not sent.HasField("top_p")


async def test_bad_words_reach_the_engine_as_token_ids(serve: Callable[..., Any]) -> None:
    service = await serve([HELLO])
    params = Params(bad_words=["hello", "w"])
    params.bad_words_token_ids.add(ids=[1, 2])
    result = await service.generate(Request(text="a", sampling_params=params))
    sent = service.engines[0].calls[0].request.sampling_params
    resolved = [[1, 2], [259], [119], [260]]
    assert [list(words.ids) for words in sent.bad_words_token_ids] == resolved
    assert not sent.bad_words
    # What comes back can be sent again and means the same.
    resolved = result.info.sampling_params.to_proto()
    assert list(resolved.bad_words) == ["hello", "w"]
    await service.generate(Request(text="a", sampling_params=resolved))
    again = service.engines[0].calls[1].request.sampling_params
    assert again.bad_words_token_ids == sent.bad_words_token_ids


async def test_logprobs_of_the_prompt_pass_through(serve: Callable[..., Any]) -> None:
    service = await serve([HELLO])
    service.engines[0].prompt_logprobs = (
        PositionLogprobs(Logprob(5, None, None)),
        PositionLogprobs(Logprob(6, -0.5, 2), (Logprob(7, -0.25, 1),)),
    )
    result = await service.generate(Request(text="a", sampling_params=Params(prompt_logprobs=1)))
    assert result.info.prompt_logprobs == service.engines[0].prompt_logprobs


async def test_long_bad_words_are_resolved_too(serve: Callable[..., Any]) -> None:
    service = await serve([HELLO])
    words = [f"{number:0250}" for number in range(128)]
    await service.generate(Request(text="a", sampling_params=Params(bad_words=words)))
    sent = service.engines[0].calls[0].request.sampling_params
    assert [bytes(ids.ids).decode() for ids in sent.bad_words_token_ids] == words


async def test_the_info_tells_what_was_resolved(serve: Callable[..., Any]) -> None:
    service = await serve([HELLO])
    params = Params(temperature=0.5, stop=["END"], seed=7)
    request = Request(text="hello", sampling_params=params, return_prompt_token_ids=True)
    info = (await service.generate(request)).info
    assert (info.sampling_params.stop, info.sampling_params.temperature) == (("END",), 0.5)
    assert (info.sampling_params.seed, info.prompt_tokens) == (7, 1)
    assert info.prompt_token_ids == (259,)
    request.return_prompt_token_ids = False
    assert (await service.generate(request)).info.prompt_token_ids == ()


async def test_a_stop_string_over_messages_aborts_at_the_engine(serve: Callable[..., Any]) -> None:
    service = await serve([Script([[*b"one E"], [*b"ND two"], [*b"three"]], finish=None)])
    params = Params(stop=["END"])
    output = (await service.generate(Request(text="a", sampling_params=params))).outputs[0]
    assert (output.text, bytes(output.token_ids)) == ("one ", b"one END")
    assert (output.finish_reason, output.stop_reason) == (FinishReason.STOP, "END")
    assert output.usage.completion_tokens == 7
    (call,) = service.engines[0].calls
    await call.ended.wait()
    assert call.aborted == {0} and call.completed


async def test_two_continuations_end_each_on_its_own(serve: Callable[..., Any]) -> None:
    ends = Script([[*b"b", EOS_ID]], FinishReason.STOP)
    service = await serve([Script([[*b"aEND"]], finish=None), ends])
    params = Params(n=2, stop=["END"])
    first, second = (await service.generate(Request(text="a", sampling_params=params))).outputs
    assert (first.text, first.stop_reason, first.usage.completion_tokens) == ("a", "END", 4)
    assert (second.text, second.stop_reason, second.usage.completion_tokens) == ("b", None, 2)
    assert service.engines[0].calls[0].aborted == {0}


async def test_half_a_character_never_comes(serve: Callable[..., Any]) -> None:
    data = "é😀".encode()
    service = await serve([Script([[byte] for byte in data] + [[0xF0]])])
    texts = [output.text async for output in service.stream(Request(text="a"))]
    assert "".join(texts) == "é😀\ufffd"
    assert "\ufffd" not in "".join(texts[:-1])


async def test_a_cancel_reaches_the_engine(serve: Callable[..., Any]) -> None:
    service = await serve([ENDLESS])
    call = service.stub.Generate(Request(text="a"))
    await call.read()
    call.cancel()
    async with asyncio.timeout(20):
        await service.engines[0].calls[0].ended.wait()
    assert not service.engines[0].calls[0].completed


async def test_the_deadline_ends_the_call_and_the_engines_request(
    serve: Callable[..., Any],
) -> None:
    service = await serve([ENDLESS])
    code, _, _ = await service.error_of(service.stub.Generate(Request(text="a"), timeout=2))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    (call,) = service.engines[0].calls
    async with asyncio.timeout(20):
        await call.ended.wait()
    assert not call.completed


async def test_requests_go_to_the_least_loaded_engine(serve: Callable[..., Any]) -> None:
    service = await serve([ENDLESS], [ENDLESS])
    calls = []
    for i in range(4):
        calls.append(service.stub.Generate(Request(request_id=str(i), text="a")))
        await calls[-1].read()
    ids = [[call.request.request_id for call in engine.calls] for engine in service.engines]
    assert ids == [["0", "2"], ["1", "3"]]
    for call in calls:
        call.cancel()


async def test_nothing_is_left_after_many_calls(serve: Callable[..., Any]) -> None:
    service = await serve([ENDLESS], [ENDLESS])
    num_tasks = len(asyncio.all_tasks())
    calls = [service.stub.Generate(Request(text="hello " * i)) for i in range(1, 33)]
    for call in calls:
        await call.read()
    for call in calls:
        call.cancel()
    async with asyncio.timeout(60):
        for engine in service.engines:
            for call in engine.calls:
                await call.ended.wait()
        while any(num_running(service.pool)):
            await asyncio.sleep(0)
        while len(asyncio.all_tasks()) > num_tasks:
            await asyncio.sleep(0)
    assert sum(len(engine.calls) for engine in service.engines) == 32


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Request(), "prompt"),
        (Request(text=""), "text"),
        (Request(token_ids=types_pb2.TokenIds()), "token_ids"),
        (Request(text="é" * (MAX_PROMPT_BYTES // 2 + 1)), "text"),
        (Request(text="hello " * 250 + "a" * 1000), "text"),  # over max_model_len
        (Request(token_ids=types_pb2.TokenIds(ids=[1] * (MAX_PROMPT_BYTES + 1))), "token_ids"),
        (Request(token_ids=types_pb2.TokenIds(ids=[1] * 1024)), "token_ids"),
        (Request(text="a", sampling_params=Params(top_p=0)), "sampling_params.top_p"),
        (Request(text="a", sampling_params=Params(top_p=1.5)), "sampling_params.top_p"),
        (Request(text="a", sampling_params=Params(temperature=-1)), "sampling_params.temperature"),
        (
            Request(text="a", sampling_params=Params(temperature=float("nan"))),
            "sampling_params.temperature",
        ),
        (Request(text="a", sampling_params=Params(n=0)), "sampling_params.n"),
        (Request(text="a", sampling_params=Params(n=129)), "sampling_params.n"),
        (Request(text="a", sampling_params=Params(stop=[""])), "sampling_params.stop[0]"),
        (Request(text="a", sampling_params=Params(stop=["a"] * 17)), "sampling_params.stop"),
        (Request(text="a", sampling_params=Params(max_tokens=0)), "sampling_params.max_tokens"),
    ],
)
async def test_a_bad_request_is_refused_before_the_engine_sees_it(
    serve: Callable[..., Any], request_: Request, field: str
) -> None:
    service = await serve([HELLO])
    code, named, message = await service.error_of(service.stub.Generate(request_))
    assert (code, named) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert message
    assert service.engines[0].calls == []
    assert (await service.generate(Request(text="a"))).outputs[0].text == "hello"


@pytest.mark.parametrize(
    ("request_", "engines_field", "field"),
    [
        (Request(text="a"), "prompt_token_ids", "text"),
        (Request(token_ids=types_pb2.TokenIds(ids=[999])), "prompt_token_ids", "token_ids"),
        (Request(text="a"), "sampling_params.max_tokens", "sampling_params.max_tokens"),
    ],
)
async def test_the_engines_refusal_names_the_callers_field(
    serve: Callable[..., Any], request_: Request, engines_field: str, field: str
) -> None:
    service = await serve([HELLO])
    service.engines[0].refuse_with = InvalidRequestError(engines_field, "not like this")
    assert await service.error_of(service.stub.Generate(request_)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        field,
        "not like this",
    )


async def test_a_stream_without_its_final_message_is_an_error(serve: Callable[..., Any]) -> None:
    service = await serve([HELLO])  # one script for two continuations
    call = service.stub.Generate(Request(text="a", sampling_params=Params(n=2)))
    code, _, message = await service.error_of(call)
    assert code is grpc.StatusCode.INTERNAL
    assert "without a final message" in message


async def test_no_engine_is_unavailable(serve: Callable[..., Any]) -> None:
    service = await serve()
    for call in (
        service.stub.Generate(Request(text="a")),
        service.stub.GetModelInfo(types_pb2.GetModelInfoRequest()),
    ):
        code, _, message = await service.error_of(call)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert message.startswith("no engine is ready: 127.0.0.1:1: ")


async def test_another_model_is_a_failed_precondition(serve: Callable[..., Any]) -> None:
    service = await serve([HELLO], fingerprint="other")
    code, _, message = await service.error_of(service.stub.Generate(Request(text="a")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "fingerprint is other" in message


async def test_model_info_is_the_engines(serve: Callable[..., Any]) -> None:
    service = await serve([HELLO])
    info = await service.stub.GetModelInfo(types_pb2.GetModelInfoRequest())
    info.ClearField("engines")
    assert info == service.engines[0].info


async def test_a_request_that_its_engine_blames_is_not_to_be_retried(
    serve: Callable[..., Any],
) -> None:
    service = await serve([], [])
    for engine in service.engines:
        engine.refuse_with = RequestFailedError("what it computes is not finite")
    with pytest.raises(grpc.aio.AioRpcError, match="not finite") as caught:
        _ = [message async for message in service.stub.Generate(Request(text="a"), timeout=20)]
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"
    assert sum(len(engine.calls) for engine in service.engines) == 1


async def test_what_is_known_of_the_engines_is_told(serve: Callable[..., Any]) -> None:
    service = await serve([], [])
    info = await service.stub.GetModelInfo(types_pb2.GetModelInfoRequest(), timeout=20)
    addresses = [engine.address for engine in service.pool._engines]
    assert [(each.address, each.ready, each.state) for each in info.engines] == [
        (address, True, "ready") for address in addresses
    ]
