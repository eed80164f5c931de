"""Fork and Score of the engine service on a real socket, with a fake model."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from engine_service.config import SchedulerConfig
from engine_service.engine.async_engine import AsyncEngine
from engine_service.servicer import EngineServicer
from folovllm.errors import (
    CancelledRequestError,
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    from_rpc_error,
)
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.score import ScoreOutput
from folovllm.serving.channel import CLIENT_OPTIONS
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import expected_logprobs, expected_tokens
from support.integrity import check_integrity

PROMPT = [3, 1, 4, 1, 5]
Params = types_pb2.SamplingParams
Continuation = types_pb2.ScoreRequest.Continuation


class Service:
    """One engine service and a stub that talks to it."""

    def __init__(self, max_num_waiting: int = 100) -> None:
        self.llm_engine, self.runner = make_engine()
        self.engine = AsyncEngine(
            lambda: self.llm_engine, SchedulerConfig(max_num_waiting=max_num_waiting)
        )
        self.server = GrpcServer(ServerConfig(), ENGINE_SERVICE)
        engine_service_pb2_grpc.add_EngineServiceServicer_to_server(
            EngineServicer(self.engine, self.server.active_calls), self.server.grpc
        )
        port = self.server.bind()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", CLIENT_OPTIONS)
        self.stub: engine_service_pb2_grpc.EngineServiceAsyncStub = (
            engine_service_pb2_grpc.EngineServiceStub(self.channel)
        )

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

    async def parent(self, **params: int) -> AsyncIterator[types_pb2.CompletionOutput]:
        """A running request "a" that is held in its second step; its messages after the first."""
        self.runner.hold(after=1)
        request = types_pb2.Request(
            request_id="a",
            prompt_token_ids=PROMPT,
            sampling_params=Params(seed=7, **params),  # type: ignore[arg-type]
        )
        messages = aiter(self.stub.Generate(request))
        self.first = await anext(messages)
        await self.until_held()
        return messages

    async def until_held(self) -> None:
        """Returns when the runner holds the engine's thread, which takes no commands meanwhile."""
        while not self.runner.is_held:
            await asyncio.sleep(0)

    async def until_free(self) -> None:
        """Returns when all is free; pytest's timeout bounds it."""
        while self.engine.num_requests or self.engine.load.num_free_kv_blocks != 64:
            await asyncio.sleep(0)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    await service.start()
    yield service
    await service.stop()


def ask_fork(*branches: Params, **fields: object) -> types_pb2.ForkRequest:
    branches = branches or (Params(seed=1, max_tokens=5), Params(seed=2, max_tokens=9))
    fields = {"request_id": "a", "branches": branches} | fields
    return types_pb2.ForkRequest(**fields)  # type: ignore[arg-type]


def ask_score(*continuations: list[int], **fields: object) -> types_pb2.ScoreRequest:
    fields = {"token_ids": {"ids": PROMPT}} | fields
    return types_pb2.ScoreRequest(
        continuations=[
            Continuation(token_ids=types_pb2.TokenIds(ids=ids)) for ids in continuations
        ],
        **fields,  # type: ignore[arg-type]
    )


async def refusal(call: object) -> Exception:
    with pytest.raises(grpc.RpcError) as refused:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            _ = [message async for message in call]
        else:
            await call  # type: ignore[misc]
    return from_rpc_error(refused.value)


async def test_branches_stream_beside_their_parent(service: Service) -> None:
    parent = await service.parent(max_tokens=30)
    fork = service.stub.Fork(ask_fork(fork_id="f"))
    while service.engine.num_requests < 2:
        await asyncio.sleep(0)
    service.runner.release()
    messages = [CompletionOutput.from_proto(message) async for message in fork]
    result = RequestOutput.join(messages)
    # The parent was held in its second step, and branched between that and its third.
    had = [*PROMPT, *expected_tokens(PROMPT, 2, seed=7)]
    assert result.request_id == "f"
    for index, (seed, length) in enumerate(((1, 5), (2, 9))):
        mine = [message for message in messages if message.index == index]
        infos = [message.info for message in mine if message.info]
        assert infos == [mine[0].info] and infos[0].prompt_tokens == len(had)
        assert infos[0].sampling_params.seed == seed
        assert list(infos[0].parent_output_token_ids) == had[len(PROMPT) :]
        assert result.outputs[index].token_ids == expected_tokens(had, length, seed=seed)
    rest = [token_id async for message in parent for token_id in message.token_ids]
    assert [*service.first.token_ids, *rest] == expected_tokens(PROMPT, 30, seed=7)
    await service.until_free()


async def test_cancelling_a_fork_frees_its_blocks_and_not_the_parent(service: Service) -> None:
    parent = await service.parent(max_tokens=60)
    fork = service.stub.Fork(ask_fork(*[Params(max_tokens=100)] * 3))
    while service.engine.num_requests < 2:
        await asyncio.sleep(0)
    fork.cancel()
    while not all(
        stream._closed for name, stream in service.engine._streams.items() if name != "a"
    ):
        await asyncio.sleep(0)
    service.runner.release()
    rest = [token_id async for message in parent for token_id in message.token_ids]
    assert len(rest) == 59
    await service.until_free()
    # The step in which they were cancelled is the last that may have had them.
    assert all(len(step.scheduled) == 1 for step in service.runner.steps[4:])


async def test_branches_outlive_an_aborted_parent(service: Service) -> None:
    parent = await service.parent(max_tokens=60)
    fork = service.stub.Fork(ask_fork())
    while service.engine.num_requests < 2:
        await asyncio.sleep(0)
    await service.stub.Abort(engine_service_pb2.AbortRequest(request_id="a"))
    service.runner.release()
    result = RequestOutput.join([CompletionOutput.from_proto(m) async for m in fork])
    assert [len(branch.token_ids) for branch in result.outputs] == [5, 9]
    finals = [message async for message in parent]
    assert finals[-1].finish_reason == types_pb2.FINISH_REASON_ABORT


BAD_FORKS = [
    (ask_fork(branches=[]), "branches"),
    (ask_fork(*[Params()] * 129), "branches"),
    (ask_fork(Params(), Params(n=2)), "branches[1].n"),
    (ask_fork(Params(top_p=1.5)), "branches[0].top_p"),
    (ask_fork(Params(stop=["text"])), "branches[0].stop"),
    (ask_fork(Params(prompt_logprobs=0)), "branches[0].prompt_logprobs"),
    (ask_fork(Params(allowed_token_ids=[1000])), "branches[0].allowed_token_ids"),
    (ask_fork(Params(), Params(max_tokens=123)), "branches[1].max_tokens"),
    (ask_fork(fork_id="a"), "fork_id"),
]


@pytest.mark.parametrize(("request_", "field"), BAD_FORKS)
async def test_bad_forks_name_their_field_and_harm_no_one(
    service: Service, request_: types_pb2.ForkRequest, field: str
) -> None:
    parent = await service.parent(max_tokens=40)
    call = asyncio.ensure_future(refusal(service.stub.Fork(request_)))
    while not call.done() and service.engine.num_requests < 2:
        await asyncio.sleep(0)
    service.runner.release()
    error = await call
    assert isinstance(error, InvalidRequestError) and error.field == field
    assert len([token_id async for message in parent for token_id in message.token_ids]) == 39
    assert service.engine.num_admissible == 100
    await service.until_free()


async def test_what_does_not_run_is_not_found(service: Service) -> None:
    assert isinstance(await refusal(service.stub.Fork(ask_fork())), NotFoundError)
    parent = await service.parent(max_tokens=9)
    call = asyncio.ensure_future(refusal(service.stub.Fork(ask_fork(index=1))))
    service.runner.release()
    assert isinstance(await call, NotFoundError)
    assert [message async for message in parent][-1].usage.completion_tokens == 9
    assert service.engine.num_admissible == 100


async def test_a_full_queue_refuses_forks_and_scores() -> None:
    service = Service(max_num_waiting=1)
    await service.start()
    parent = await service.parent(max_tokens=90)
    waiting = service.stub.Fork(ask_fork())
    while service.engine.num_admissible:
        await asyncio.sleep(0)
    assert isinstance(await refusal(service.stub.Fork(ask_fork())), QueueFullError)
    assert isinstance(await refusal(service.stub.Score(ask_score([1]))), QueueFullError)
    service.runner.release()
    assert len([message async for message in waiting]) >= 2
    assert [message async for message in parent][-1].usage.completion_tokens == 90
    await service.stop()


async def test_scores_of_given_continuations(service: Service) -> None:
    continuations = [[7], [8, 9, 10], [7], list(range(100))]
    request = ask_score(*continuations, request_id="mine")
    response = await service.stub.Score(request)
    output = ScoreOutput.from_proto(response)
    assert output.request_id == "mine"
    for ids, score, message in zip(
        continuations, output.continuations, response.continuations, strict=True
    ):
        positions = expected_logprobs([*PROMPT, *ids], len(PROMPT), 0)
        assert list(score.token_ids) == ids
        assert list(score.logprobs) == [position.token.logprob for position in positions]
        assert list(score.ranks) == [position.token.rank for position in positions]
        assert message.cumulative_logprob == sum(score.logprobs)
        assert message.is_greedy == all(rank == 1 for rank in score.ranks)
    await service.until_free()


BAD_SCORES = [
    (ask_score([1], token_ids={"ids": []}), "token_ids"),
    (ask_score([1], token_ids={"ids": [1000]}), "prompt"),
    (types_pb2.ScoreRequest(text="a", continuations=[Continuation(text="b")]), "text"),
    (ask_score(), "continuations"),
    (ask_score(*[[1]] * 129), "continuations"),
    (ask_score(*[[1] * 1000] * 100), "continuations"),
    (ask_score([1], []), "continuations[1].token_ids"),
    (ask_score([1], [1000]), "continuations[1]"),
    (ask_score([1] * 124), "continuations[0]"),
    (
        types_pb2.ScoreRequest(token_ids={"ids": [1]}, continuations=[Continuation(text="a")]),  # type: ignore[arg-type]
        "continuations[0].text",
    ),
]


@pytest.mark.parametrize(("request_", "field"), BAD_SCORES)
async def test_bad_scores_name_their_field(
    service: Service, request_: types_pb2.ScoreRequest, field: str
) -> None:
    error = await refusal(service.stub.Score(request_))
    assert isinstance(error, InvalidRequestError) and error.field == field


@pytest.mark.parametrize("how", ["cancel", "deadline", "abort"])
async def test_the_end_of_a_score_frees_all(service: Service, how: str) -> None:
    service.runner.hold(after=1)
    request = ask_score(*[[i] * 50 for i in range(20)], request_id="s")
    call = service.stub.Score(request, timeout=2 if how == "deadline" else None)
    while service.engine.num_requests < 1:
        await asyncio.sleep(0)
    if how == "cancel":
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    elif how == "deadline":
        assert isinstance(await refusal(call), DeadlineError)
    else:
        await service.stub.Abort(engine_service_pb2.AbortRequest(request_id="s"))
        service.runner.release()
        assert isinstance(await refusal(call), CancelledRequestError)
    if how != "abort":
        while not all(stream._closed for stream in service.engine._streams.values()):
            await asyncio.sleep(0)
    service.runner.release()
    await service.until_free()
    assert service.engine.num_admissible == 100
