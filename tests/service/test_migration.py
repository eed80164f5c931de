"""Streams that go on at another engine when theirs is lost, with real engines on a fake model."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from folovllm.errors import NotFoundError
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.v1 import types_pb2
from support.builders.engine_pools import Command, pool_of, until_each_ready
from support.fakes.model_runner import expected_tokens
from support.processes.engine_sessions import PROMPT, EngineFixture, ask
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.engines.stream import EngineStream


class Engines:
    """Two engines that are like each other, behind one pool. The first stops after some steps."""

    def __init__(self, pool: EnginePool, fixtures: list[EngineFixture]) -> None:
        self.pool = pool
        self.fixtures = fixtures

    async def undisturbed(self, request: types_pb2.Request) -> RequestOutput:
        return await self.fixtures[1].generate(request)

    def generate(self, request: types_pb2.Request, after: int) -> EngineStream:
        """Begins a request at the first engine, which will stand still after so many steps."""
        self.fixtures[0].runner.hold(after=after)
        return self.pool.generate(Command(generate=request))

    async def lose_first(self) -> None:
        """Ends the connections to it, as its death would."""
        await self.fixtures[0].server.grpc.stop(0)


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    fixtures = [EngineFixture() for _ in range(2)]
    for fixture in fixtures:
        await fixture.start()
    async with pool_of(*(each.address for each in fixtures), fingerprint="fake") as pool:
        await until_each_ready(pool, True, True)
        yield Engines(pool, fixtures)
    for fixture in fixtures:
        await fixture.stop()


async def read(stream: EngineStream, into: RequestOutput, number: int | None = None) -> None:
    """Adds outputs of a stream until there are so many tokens of all indexes, or to its end."""
    while number is None or sum(len(each.token_ids) for each in into.outputs) < number:
        try:
            output = await anext(stream)
        except StopAsyncIteration:
            return
        assert output.request_id == stream.name
        into.add(CompletionOutput.from_proto(output))


def facts(output: CompletionOutput) -> tuple[object, ...]:
    """All of an output that must not depend on where it was computed."""
    assert output.usage
    return (
        output.token_ids,
        output.logprobs,
        output.cumulative_logprob,
        output.finish_reason,
        output.stop_reason,
        output.usage.prompt_tokens,
        output.usage.completion_tokens,
    )


@pytest.mark.parametrize(
    "asked",
    [
        ask("r", max_tokens=60),
        ask("r", max_tokens=40, n=4, logprobs=1, temperature=1.0, prompt_logprobs=2),
        ask("r", max_tokens=40, n=3, frequency_penalty=0.5, logprobs=0),
        # Two of these end before, one soon after.
        ask("r", max_tokens=40, n=4, stop_token_ids=[*range(0, 1000, 23)]),
    ],
    ids=["one", "several", "penalised", "stopped"],
)
async def test_what_is_lost_goes_on_to_the_same_end(
    engines: Engines, asked: types_pb2.Request
) -> None:
    whole, result = await engines.undisturbed(asked), RequestOutput()
    with engines.generate(asked, after=11) as stream:
        await read(stream, result, 10)
        await engines.lose_first()
        await read(stream, result)
    assert [*map(facts, result.outputs)] == [*map(facts, whole.outputs)]
    moved = [output for output in result.outputs if output.num_moves]
    assert moved and {output.num_moves for output in moved} == {1}
    assert all(output.exact for output in result.outputs)
    assert result.info and whole.info
    assert result.info.sampling_params == whole.info.sampling_params
    assert result.info.prompt_logprobs == whole.info.prompt_logprobs
    assert result.info.numerics_fingerprint == "exact"


@pytest.mark.parametrize("number", [1, 2, 5, 8])
async def test_any_token_may_be_the_last_of_an_engine(number: int) -> None:
    fixture = EngineFixture()
    await fixture.start()
    first = EngineFixture()
    await first.start()
    async with pool_of(first.address, fixture.address, fingerprint="fake") as pool:
        await until_each_ready(pool, True, True)
        engines, result = Engines(pool, [first, fixture]), RequestOutput()
        with engines.generate(ask("r", max_tokens=9), after=number) as stream:
            await read(stream, result, number)
            await engines.lose_first()
            await read(stream, result)
    await first.stop()
    await fixture.stop()
    assert result.outputs[0].token_ids == expected_tokens(PROMPT, 9, seed=7)


async def test_what_has_no_output_begins_again(engines: Engines) -> None:
    result = RequestOutput()
    with engines.generate(ask("r", max_tokens=9), after=0) as stream:
        await engines.fixtures[0].until_held()
        await engines.lose_first()
        await read(stream, result)
    assert result.outputs[0].token_ids == expected_tokens(PROMPT, 9, seed=7)
    assert (result.outputs[0].exact, result.outputs[0].num_moves) == (True, 1)


async def test_what_a_stop_string_has_ended_is_finished_without_an_engine(
    engines: Engines,
) -> None:
    result = RequestOutput()
    with engines.generate(ask("r", max_tokens=60, n=2), after=20) as stream:
        await read(stream, result, 20)
        await engines.fixtures[0].until_held()
        stream.abort([1])  # which the engine will never get to
        await engines.lose_first()
        await read(stream, result)
    first, second = result.outputs
    assert first.token_ids == expected_tokens(PROMPT, 60, seed=7)
    assert second.finish_reason is FinishReason.ABORT and second.usage
    assert second.usage.completion_tokens == len(second.token_ids) < 60
    assert second.usage.prompt_tokens == len(PROMPT)


def fork_of(parent: str, name: str, *seeds: int, index: int = 0) -> Command:
    params = ask("", max_tokens=30).sampling_params
    fork = types_pb2.ForkRequest(request_id=parent, fork_id=name, index=index)
    for seed in seeds:
        branch = fork.branches.add()
        branch.CopyFrom(params)
        branch.seed = seed
    return Command(fork=fork)


async def test_the_branches_of_a_fork_go_on_and_can_be_branched_again(engines: Engines) -> None:
    parent, forked, again = RequestOutput(), RequestOutput(), RequestOutput()
    first = engines.fixtures[0]
    with engines.generate(ask("r", max_tokens=90), after=10) as stream:
        await read(stream, parent, 5)
        await first.until_held()
        with engines.pool.fork(fork_of("r", "f", 8, 9)) as branches:
            await first.until_requests(2)
            first.runner.release()
            first.runner.hold(after=12)
            await read(branches, forked, 6)
            await engines.lose_first()
            with engines.pool.fork(fork_of("f", "g", 5, index=1)) as more:
                for source, result in ((branches, forked), (more, again), (stream, parent)):
                    await read(source, result)
    assert parent.outputs[0].token_ids == expected_tokens(PROMPT, 90, seed=7)
    assert forked.info and again.info
    begun = [*PROMPT, *forked.info.parent_output_token_ids]
    for output, seed in zip(forked.outputs, (8, 9), strict=True):
        assert output.token_ids == expected_tokens(begun, 30, seed=seed)
        assert output.usage and output.usage.completion_tokens == 30
        assert output.usage.prompt_tokens == len(begun)
        assert (output.exact, output.num_moves) == (True, 1)
    begun = [*PROMPT, *again.info.parent_output_token_ids]
    assert again.outputs[0].token_ids == expected_tokens(begun, 30, seed=5)
    with pytest.raises(NotFoundError):
        engines.pool.fork(fork_of("r", "late", 1))


async def test_a_fork_of_which_nothing_came_begins_where_its_parent_was(engines: Engines) -> None:
    parent, forked = RequestOutput(), RequestOutput()
    with engines.generate(ask("r", max_tokens=60), after=10) as stream:
        await engines.fixtures[0].until_held()
        await read(stream, parent, 3)
        known = len(stream.progress[0].token_ids)
        with engines.pool.fork(fork_of("r", "f", 8, 9)) as branches:
            await engines.lose_first()
            await read(branches, forked)
            await read(stream, parent)
    assert forked.info
    assert [*forked.info.parent_output_token_ids] == parent.outputs[0].token_ids[:known]
    begun = [*PROMPT, *forked.info.parent_output_token_ids]
    for output, seed in zip(forked.outputs, (8, 9), strict=True):
        assert output.token_ids == expected_tokens(begun, 30, seed=seed)


async def test_many_that_are_lost_at_once_all_go_on(engines: Engines) -> None:
    engines.fixtures[0].runner.hold(after=30)
    names = [f"r{number}" for number in range(40)]
    streams = [engines.pool.generate(Command(generate=ask(n, max_tokens=20))) for n in names]
    results = [RequestOutput() for _ in names]
    await engines.fixtures[0].until_held()
    await engines.lose_first()
    async with asyncio.TaskGroup() as group:
        for stream, result in zip(streams, results, strict=True):
            group.create_task(read(stream, result))
    expected = expected_tokens(PROMPT, 20, seed=7)
    assert all(result.outputs[0].token_ids == expected for result in results)
