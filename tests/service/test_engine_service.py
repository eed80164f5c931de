"""The engine service on a real socket, with a fake model behind the real engine."""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine_service.config import SchedulerConfig
from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.output_stream import OutputStream
from engine_service.servicer import EngineServicer
from folovllm.errors import (
    FolovError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
    from_rpc_error,
)
from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.sampling_params import SamplingParams
from folovllm.serving.channel import CLIENT_OPTIONS
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import expected_logprobs, expected_tokens
from support.integrity import check_integrity

PROMPT = [3, 1, 4, 1, 5]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Service:
    """One engine service and a stub that talks to it."""

    def __init__(self, max_num_waiting: int = 100, grace_period: float = 30.0) -> None:
        self.llm_engine, self.runner = make_engine(eos_token_ids=(999,))
        self.engine = AsyncEngine(
            lambda: self.llm_engine, SchedulerConfig(max_num_waiting=max_num_waiting)
        )
        self.server = GrpcServer(ServerConfig(grace_period=grace_period), ENGINE_SERVICE)
        engine_service_pb2_grpc.add_EngineServiceServicer_to_server(
            EngineServicer(self.engine, self.server.active_calls), self.server.grpc
        )
        self.address = f"127.0.0.1:{self.server.bind()}"
        self.channel = grpc.aio.insecure_channel(self.address, CLIENT_OPTIONS)
        self.stub: engine_service_pb2_grpc.EngineServiceAsyncStub = (
            engine_service_pb2_grpc.EngineServiceStub(self.channel)
        )
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def start(self) -> None:
        await self.server.start()
        await self.engine.start()
        await self.server.set_serving(True)

    async def stop(self) -> None:
        self.runner.release()
        await self.channel.close()
        await self.server.drain()
        await self.engine.stop()
        check_integrity(self.llm_engine.scheduler)

    async def generate(self, request: types_pb2.Request) -> RequestOutput:
        result = RequestOutput()
        try:
            async for message in self.stub.Generate(request):
                result.add(CompletionOutput.from_proto(message))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return result

    async def until(self, free_blocks: int) -> None:
        """Returns when so many blocks are free; pytest's timeout bounds it."""
        while self.engine.load.num_free_kv_blocks != free_blocks or self.engine.num_requests:
            await asyncio.sleep(0)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    await service.start()
    yield service
    await service.stop()


def ask(**params: object) -> types_pb2.Request:
    params = {"temperature": 0.0, "seed": 7, "ignore_eos": True} | params
    return types_pb2.Request(
        prompt_token_ids=PROMPT,
        sampling_params=types_pb2.SamplingParams(**params),  # type: ignore[arg-type]
    )


async def test_tokens_stream_back_with_info_usage_and_metrics(service: Service) -> None:
    messages = [message async for message in service.stub.Generate(ask(max_tokens=9, n=2))]
    ids = {message.request_id for message in messages}
    assert len(ids) == 1 and all(ids)
    infos = [message.info for message in messages if message.HasField("info")]
    assert len(infos) == 1 and infos[0].sampling_params.seed == 7
    assert infos[0].prompt_tokens == 5 and infos[0].tokenizer_fingerprint == "fake"
    for index in range(2):
        mine = [message for message in messages if message.index == index]
        joined = [token_id for message in mine for token_id in message.token_ids]
        assert joined == expected_tokens(PROMPT, 9, seed=7, index=index)
        assert [bool(message.finish_reason) for message in mine] == [False] * (len(mine) - 1) + [
            True
        ]
        assert mine[-1].usage.completion_tokens == 9
        assert mine[-1].metrics.time_to_first_token.ToNanoseconds() > 0
        assert not any(message.text for message in mine)


async def test_a_seed_is_drawn_and_told(service: Service) -> None:
    request = ask(max_tokens=4)
    request.sampling_params.ClearField("seed")
    seeds = []
    for _ in range(2):
        result = await service.generate(request)
        assert result.info and result.info.sampling_params.seed is not None
        seed = result.info.sampling_params.seed
        seeds.append(seed)
        assert result.outputs[0].token_ids == expected_tokens(PROMPT, 4, seed=seed)
    assert seeds[0] != seeds[1]


async def test_without_a_bound_the_context_is_the_bound(service: Service) -> None:
    unbounded = SamplingParams(temperature=0.0, seed=7, ignore_eos=True, max_tokens=None)
    request = types_pb2.Request(prompt_token_ids=PROMPT, sampling_params=unbounded.to_proto())
    result = await service.generate(request)
    assert result.outputs[0].finish_reason is FinishReason.LENGTH
    assert len(PROMPT) + len(result.outputs[0].token_ids) == 128
    assert result.info is not None and result.info.sampling_params == unbounded


def sequences(*sequences: list[int]) -> list[types_pb2.TokenIds]:
    return [types_pb2.TokenIds(ids=ids) for ids in sequences]


BAD: list[tuple[dict[str, list[int]], dict[str, object], str]] = [
    ({"prompt_token_ids": []}, {}, "prompt_token_ids"),
    ({"prompt_token_ids": [1000]}, {}, "prompt_token_ids"),
    ({"prompt_token_ids": [1] * 128}, {}, "prompt_token_ids"),
    ({"prompt_token_ids": [1] * 120}, {"max_tokens": 9}, "sampling_params.max_tokens"),
    ({}, {"max_tokens": 0}, "sampling_params.max_tokens"),
    ({}, {"top_p": 0.0}, "sampling_params.top_p"),
    ({}, {"top_p": 1.5}, "sampling_params.top_p"),
    ({}, {"temperature": -1.0}, "sampling_params.temperature"),
    ({}, {"temperature": float("nan")}, "sampling_params.temperature"),
    ({}, {"n": 0}, "sampling_params.n"),
    ({}, {"n": 129}, "sampling_params.n"),
    ({}, {"stop_token_ids": [1000]}, "sampling_params.stop_token_ids"),
    ({}, {"stop": ["text"]}, "sampling_params.stop"),
    ({}, {"bad_words": ["text"]}, "sampling_params.bad_words"),
    ({}, {"logprobs": 21}, "sampling_params.logprobs"),
    ({}, {"prompt_logprobs": 21}, "sampling_params.prompt_logprobs"),
    ({}, {"presence_penalty": 2.5}, "sampling_params.presence_penalty"),
    ({}, {"frequency_penalty": -2.5}, "sampling_params.frequency_penalty"),
    ({}, {"repetition_penalty": 0.0}, "sampling_params.repetition_penalty"),
    ({}, {"logit_bias": {1: 101.0}}, "sampling_params.logit_bias[1]"),
    ({}, {"logit_bias": {1: 1.0, 1000: 1.0}}, "sampling_params.logit_bias"),
    ({}, {"allowed_token_ids": [1, 1000]}, "sampling_params.allowed_token_ids"),
    ({}, {"bad_words_token_ids": sequences([1], [])}, "sampling_params.bad_words_token_ids[1]"),
    ({}, {"bad_words_token_ids": sequences([1, 1000])}, "sampling_params.bad_words_token_ids"),
    ({}, {"bad_words_token_ids": sequences(*[[1]] * 513)}, "sampling_params.bad_words_token_ids"),
    ({}, {"regex": "a"}, "sampling_params.regex"),
]


@pytest.mark.parametrize(("fields", "params", "field"), BAD)
async def test_bad_input_names_its_field_and_harms_no_one(
    service: Service, fields: dict[str, list[int]], params: dict[str, object], field: str
) -> None:
    service.runner.hold()
    other = asyncio.ensure_future(service.generate(ask(max_tokens=20)))
    message = ask(**params)
    for name, value in fields.items():
        message.ClearField(name)  # type: ignore[arg-type]
        getattr(message, name).extend(value)
    with pytest.raises(InvalidRequestError) as refused:
        await service.generate(message)
    assert refused.value.field == field
    service.runner.release()
    assert (await other).outputs[0].token_ids == expected_tokens(PROMPT, 20, seed=7)


async def test_logprobs_stream_with_their_tokens(service: Service) -> None:
    messages = [
        CompletionOutput.from_proto(message)
        async for message in service.stub.Generate(
            ask(max_tokens=9, n=2, logprobs=2, prompt_logprobs=1)
        )
    ]
    assert all(len(message.logprobs) == len(message.token_ids) for message in messages)
    result = RequestOutput.join(messages)
    for output in result.outputs:
        expected = expected_logprobs([*PROMPT, *output.token_ids], 5, 2)
        assert output.logprobs == expected
        total = sum(position.token.logprob or 0.0 for position in expected)
        assert output.cumulative_logprob == pytest.approx(total)
    assert result.info is not None
    assert result.info.prompt_logprobs[0] == PositionLogprobs(Logprob(3, None, None))
    assert list(result.info.prompt_logprobs[1:]) == expected_logprobs(PROMPT, 1, 1)


async def test_no_message_grows_over_its_limit(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_service.engine.output_stream._MAX_IDS", 4)
    merged = asyncio.Event()
    put = OutputStream.put

    def put_and_tell(stream: OutputStream, output: CompletionOutput) -> None:
        put(stream, output)
        if stream.complete:
            merged.set()

    monkeypatch.setattr(OutputStream, "put", put_and_tell)
    read_next = OutputStream.__anext__

    async def read_late(stream: OutputStream) -> CompletionOutput:
        await merged.wait()
        return await read_next(stream)

    monkeypatch.setattr(OutputStream, "__anext__", read_late)
    messages = [
        CompletionOutput.from_proto(message)
        async for message in service.stub.Generate(ask(max_tokens=14, logprobs=1))
    ]
    assert [len(message.token_ids) for message in messages] == [4, 4, 4, 2]
    assert [bool(message.info) for message in messages] == [True, False, False, False]
    assert [message.finished() for message in messages] == [False, False, False, True]
    for end in range(1, 5):
        joined = RequestOutput.join(messages[:end]).outputs[0]
        assert joined.token_ids == expected_tokens(PROMPT, 14, seed=7)[: 4 * end]
        total = sum(position.token.logprob or 0.0 for position in joined.logprobs)
        assert joined.cumulative_logprob == pytest.approx(total)


async def test_too_many_logprobs_of_a_prompt_are_refused() -> None:
    service = Service()
    service.llm_engine, service.runner = make_engine(num_blocks=6000, max_model_len=20_000)
    await service.start()
    request = ask(prompt_logprobs=20)
    request.prompt_token_ids[:] = [1] * 9524
    with pytest.raises(InvalidRequestError, match="200004 log-prob") as refused:
        await service.generate(request)
    assert refused.value.field == "sampling_params.prompt_logprobs"
    del request.prompt_token_ids[-1:]
    info = (await service.generate(request)).info
    assert info and len(info.prompt_logprobs) == 9523
    await service.stop()


async def test_a_run_can_be_repeated_from_what_it_tells(service: Service) -> None:
    request = ask(
        max_tokens=12,
        n=2,
        logprobs=1,
        presence_penalty=0.5,
        frequency_penalty=-0.25,
        repetition_penalty=1.1,
        logit_bias={5: 1.5},
        allowed_token_ids=[1, 2],
        bad_words_token_ids=sequences([4], [5, 6]),
    )
    request.sampling_params.ClearField("seed")
    first = await service.generate(request)
    assert first.info and first.info.sampling_params.bad_words_token_ids == ((4,), (5, 6))
    told = first.info.sampling_params.to_proto()
    again = await service.generate(types_pb2.Request(prompt_token_ids=PROMPT, sampling_params=told))
    assert again.info and again.info.sampling_params == first.info.sampling_params
    assert [o.token_ids for o in again.outputs] == [o.token_ids for o in first.outputs]
    for name in told.DESCRIPTOR.fields_by_name:
        if name != "seed" and getattr(request.sampling_params, name):
            assert getattr(told, name) == getattr(request.sampling_params, name)


async def test_a_bad_word_of_token_ids_never_comes(service: Service) -> None:
    says = expected_tokens(PROMPT, 12, seed=7)
    bad = sequences([says[0]], says[1:3], says[5:8])
    output = (await service.generate(ask(max_tokens=12, bad_words_token_ids=bad))).outputs[0]
    for words in bad:
        ids = list(words.ids)
        assert ids not in [output.token_ids[i : i + len(ids)] for i in range(12)]
    assert output.token_ids[0] != says[0]


async def test_the_status_carries_a_bad_request(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await anext(aiter(service.stub.Generate(ask(top_p=1.5))))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = dict(refused.value.trailing_metadata() or ())["grpc-status-details-bin"]
    from google.rpc import status_pb2

    bad_request = error_details_pb2.BadRequest()
    assert isinstance(details, bytes)
    assert status_pb2.Status.FromString(details).details[0].Unpack(bad_request)
    assert bad_request.field_violations[0].field == "sampling_params.top_p"


async def test_a_request_that_can_never_fit_the_pool_is_refused() -> None:
    service = Service()
    service.llm_engine, service.runner = make_engine(num_blocks=4, block_size=4)
    await service.start()
    with pytest.raises(InvalidRequestError, match="whole cache holds 16"):
        await service.generate(ask(max_tokens=13))
    assert (await service.generate(ask(max_tokens=12))).finished
    await service.stop()


async def test_an_id_in_use_is_refused(service: Service) -> None:
    service.runner.hold()
    request = ask(max_tokens=3)
    request.request_id = "mine"
    first = asyncio.ensure_future(service.generate(request))
    while not service.engine.num_requests:
        await asyncio.sleep(0)
    with pytest.raises(InvalidRequestError) as refused:
        await service.generate(request)
    assert refused.value.field == "request_id"
    service.runner.release()
    assert (await first).request_id == "mine"


async def test_a_cancelled_call_frees_its_blocks_running_or_queued(service: Service) -> None:
    service.runner.hold(after=2)
    running = service.stub.Generate(ask(max_tokens=100))
    await anext(aiter(running))
    queued = [service.stub.Generate(ask(max_tokens=100, n=3)) for _ in range(3)]
    while service.engine.num_requests < 4 or not service.runner.is_held:
        await asyncio.sleep(0)
    for call in (running, *queued):
        call.cancel()
    steps = len(service.runner.steps)
    while not all(stream._closed for stream in service.engine._streams.values()):
        await asyncio.sleep(0)
    service.runner.release()
    await service.until(free_blocks=64)
    # The step that was under way when they left, and none after it.
    assert len(service.runner.steps) <= steps + 1


_CLIENT = """
import sys, grpc
from folovllm.v1 import engine_service_pb2_grpc, types_pb2
stub = engine_service_pb2_grpc.EngineServiceStub(grpc.insecure_channel(sys.argv[1]))
params = types_pb2.SamplingParams(n=4, max_tokens=100, ignore_eos=True)
for message in stub.Generate(types_pb2.Request(prompt_token_ids=[1], sampling_params=params)):
    print(message.index, flush=True)
"""


async def test_a_client_that_vanishes_frees_its_blocks(service: Service) -> None:
    service.runner.hold(after=2)
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CLIENT, service.address, stdout=asyncio.subprocess.PIPE
    )
    assert client.stdout
    await client.stdout.readline()
    assert service.engine.num_requests == 1
    client.kill()
    await client.communicate()
    while not all(stream._closed for stream in service.engine._streams.values()):
        await asyncio.sleep(0)
    steps = len(service.runner.steps)
    service.runner.release()
    await service.until(free_blocks=64)
    assert len(service.runner.steps) <= steps + 1


async def test_a_deadline_frees_its_blocks(service: Service) -> None:
    service.runner.hold()
    with pytest.raises(grpc.aio.AioRpcError) as expired:
        async for _ in service.stub.Generate(ask(max_tokens=100), timeout=0.1):
            pass
    assert expired.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    service.runner.release()
    await service.until(free_blocks=64)


async def test_a_slow_reader_delays_no_one_and_loses_nothing(service: Service) -> None:
    slow = service.stub.Generate(ask(max_tokens=100))
    results = await asyncio.gather(*(service.generate(ask(max_tokens=30)) for _ in range(8)))
    assert all(
        result.outputs[0].token_ids == expected_tokens(PROMPT, 30, seed=7) for result in results
    )
    joined = [token_id async for message in slow for token_id in message.token_ids]
    assert joined == expected_tokens(PROMPT, 100, seed=7)


async def test_abort_by_id(service: Service) -> None:
    service.runner.hold()
    request = ask(max_tokens=100, n=2)
    request.request_id = "mine"
    call = asyncio.ensure_future(service.generate(request))
    while not service.engine.num_requests:
        await asyncio.sleep(0)
    abort = functools.partial(engine_service_pb2.AbortRequest, request_id="mine")
    assert (await service.stub.Abort(abort())).found
    service.runner.release()
    result = await call
    assert [output.finish_reason for output in result.outputs] == ["abort", "abort"]
    assert result.info is not None
    assert not (await service.stub.Abort(abort())).found


async def test_a_full_queue_says_when_to_come_back() -> None:
    service = Service(max_num_waiting=1)
    await service.start()
    service.runner.hold()
    first = asyncio.ensure_future(service.generate(ask()))
    while service.engine.num_admissible:
        await asyncio.sleep(0)
    with pytest.raises(QueueFullError) as refused:
        await service.generate(ask())
    assert refused.value.retry_after > 0
    load = await service.stub.GetLoad(engine_service_pb2.GetLoadRequest())
    assert (load.num_requests, load.num_admissible) == (1, 0)
    service.runner.release()
    await first
    await service.stop()


async def test_a_dead_engine_is_unavailable() -> None:
    service = Service()
    await service.start()
    service.runner.hold()
    calls = [asyncio.ensure_future(service.generate(ask(max_tokens=50))) for _ in range(5)]
    while service.engine.num_requests < 5:
        await asyncio.sleep(0)
    service.runner.failure = RuntimeError("the device is gone")
    service.runner.release()
    for call in calls:
        with pytest.raises(UnavailableError):
            await call
    with pytest.raises(UnavailableError):
        await service.generate(ask())
    await service.server.drain()
    await service.channel.close()


async def test_before_the_model_is_loaded_it_is_unavailable() -> None:
    service = Service()
    await service.server.start()
    check = health_pb2.HealthCheckRequest(service=ENGINE_SERVICE)
    assert (await service.health.Check(check)).status == NOT_SERVING
    with pytest.raises(UnavailableError, match="loading"):
        await service.generate(ask())
    await service.engine.start()
    await service.server.set_serving(True)
    assert (await service.health.Check(check)).status == SERVING
    await service.stop()


async def test_a_drain_says_so_first_and_loses_no_running_stream() -> None:
    service = Service()
    await service.start()
    watch = aiter(service.health.Watch(health_pb2.HealthCheckRequest(service=ENGINE_SERVICE)))
    assert (await anext(watch)).status == SERVING
    service.runner.hold()
    calls = [asyncio.ensure_future(service.generate(ask(max_tokens=60))) for _ in range(8)]
    while service.engine.num_requests < 8:
        await asyncio.sleep(0)
    service.server.request_stop()
    await service.server.wait_for_stop()
    drain = asyncio.ensure_future(service.server.drain())
    assert (await anext(watch)).status == NOT_SERVING
    with pytest.raises(UnavailableError, match="shutting down"):
        await service.generate(ask())
    service.runner.release()
    for call in calls:
        assert (await call).outputs[0].token_ids == expected_tokens(PROMPT, 60, seed=7)
    with pytest.raises(grpc.RpcError) as ended:  # at once, so that it holds nothing up
        await anext(watch)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    await drain
    await service.engine.stop()
    await service.channel.close()


@pytest.mark.parametrize("how", ["grace", "second signal"])
async def test_a_drain_ends_when_its_grace_does(how: str) -> None:
    service = Service(grace_period=0.05 if how == "grace" else 600)
    await service.start()
    service.runner.hold()
    call = asyncio.ensure_future(service.generate(ask(max_tokens=60)))
    while not service.engine.num_requests:
        await asyncio.sleep(0)
    service.server.request_stop()
    if how == "second signal":
        service.server.request_stop()
    await service.server.drain()
    with pytest.raises(FolovError):
        await call
    service.runner.release()
    await service.engine.stop()
    await service.channel.close()


async def test_model_info_and_load(service: Service) -> None:
    info = await service.stub.GetModelInfo(types_pb2.GetModelInfoRequest())
    assert (info.model_id, info.vocab_size, info.num_kv_blocks) == ("fake", 1000, 64)
    load = await service.stub.GetLoad(engine_service_pb2.GetLoadRequest())
    assert (load.num_running, load.num_free_kv_blocks, load.num_admissible) == (0, 64, 100)
    assert (load.num_admitted, load.num_generated_tokens) == (0, 0)
    await service.generate(ask(max_tokens=5))
    load = await service.stub.GetLoad(engine_service_pb2.GetLoadRequest())
    assert (load.num_admitted, load.num_generated_tokens) == (1, 5)


async def test_calls_may_be_cut_off_at_any_moment(service: Service) -> None:
    """What gRPC frees at the end of a call must not be touched after it: that was a crash once."""

    async def cut_off(number: int) -> None:
        call = service.stub.Generate(ask(max_tokens=100, n=2), timeout=0.002 * (number % 30))
        try:
            async for _ in call:
                if number % 3 == 0:
                    call.cancel()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass

    for _ in range(3):
        await asyncio.gather(*(cut_off(number) for number in range(60)))
    await service.until(free_blocks=64)
