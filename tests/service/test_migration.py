"""Streams that go on at another engine when theirs is lost, with real engines on a fake model."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.v1 import types_pb2
from support.builders.engine_pools import Command, pool_of, until_each_ready
from support.processes.engine_sessions import EngineFixture, ask
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.engines.stream import EngineStream


class Engines:
    """Two engines that are like each other, behind one pool."""

    def __init__(self, pool: EnginePool, fixtures: list[EngineFixture]) -> None:
        self.pool = pool
        self.fixtures = fixtures

    async def lose(self, number: int) -> None:
        """Ends the connections to an engine, as its death would."""
        await self.fixtures[number].server.grpc.stop(0)


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
    """Adds the next outputs of a stream until it has so many tokens of index 0, or all."""
    while number is None or not into.outputs or len(into.outputs[0].token_ids) < number:
        try:
            into.add(CompletionOutput.from_proto(await anext(stream)))
        except StopAsyncIteration:
            return


@pytest.mark.parametrize("n", [1, 4])
async def test_what_is_lost_goes_on_to_the_same_end(engines: Engines, n: int) -> None:
    asked = ask("r", max_tokens=60, n=n, logprobs=1, temperature=1.0)
    whole = await engines.fixtures[1].generate(asked)
    result = RequestOutput()
    engines.fixtures[0].runner.hold(after=20)
    with engines.pool.generate(Command(generate=asked)) as stream:
        await read(stream, result, 10)
        await engines.lose(0)
        await read(stream, result)
    for output, expected in zip(result.outputs, whole.outputs, strict=True):
        assert output.token_ids == expected.token_ids
        assert output.logprobs == expected.logprobs
        assert output.cumulative_logprob == expected.cumulative_logprob
        assert output.finish_reason == expected.finish_reason
        assert (output.exact, output.num_moves) == (True, 1)
        assert output.usage and output.usage.completion_tokens == 60
    assert result.info and whole.info
    assert result.info.sampling_params == whole.info.sampling_params
