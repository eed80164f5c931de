"""Thousands of sessions that have nothing to do, on a real socket."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from folovllm.errors import QueueFullError, from_rpc_error
from support.processes.engine_sessions import EngineFixture, FrontEnd, ask, front_end


@pytest.fixture
async def fixture() -> AsyncIterator[EngineFixture]:
    fixture = EngineFixture()
    await fixture.start()
    yield fixture
    await fixture.stop()


async def test_idle_sessions_cost_a_bounded_number_of_messages(fixture: EngineFixture) -> None:
    idle = [FrontEnd(fixture) for _ in range(300)]
    for each in idle:
        await each.until(lambda each=each: bool(each.messages))  # type: ignore[misc]
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with front_end(fixture) as busy:
        for number in range(4):
            await busy.send(generate=ask(str(number), max_tokens=100))
            await busy.result(str(number))
    # A tenth of a second has ten of them, in turn, whatever happens at the engine.
    rounds = 1 + (loop.time() - began) / 0.1
    received = [len(each.messages) - 1 for each in idle]
    assert sum(received) <= 10 * rounds
    assert max(received) <= 1 + rounds * 10 / len(idle)
    assert len(fixture.runner.steps) > 300
    for each in idle:
        each.call.cancel()
    await asyncio.gather(*[each.ended for each in idle], return_exceptions=True)


async def test_too_many_sessions_are_refused_and_places_become_free(
    fixture: EngineFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_service.rpc.open_sessions.MAX_SESSIONS", 3)
    sessions = [FrontEnd(fixture) for _ in range(3)]
    for each in sessions:
        await each.until(lambda each=each: bool(each.messages))  # type: ignore[misc]
    with pytest.raises(grpc.RpcError) as refused:
        await FrontEnd(fixture).ended
    error = from_rpc_error(refused.value)
    assert isinstance(error, QueueFullError) and error.retry_after > 0
    await sessions[0].call.done_writing()
    await sessions[0].ended
    async with front_end(fixture) as client:
        await client.send(generate=ask("a", max_tokens=3))
        assert len((await client.result("a")).outputs[0].token_ids) == 3
    for each in sessions[1:]:
        await each.call.done_writing()
        await each.ended
