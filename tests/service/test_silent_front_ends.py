"""What an engine tells in a session beside outputs, and front ends that fall silent."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from engine_service.rpc.front_end import FrontEnd as SessionPeer
from folovllm.errors import UnavailableError, from_rpc_error
from folovllm.liveness import LivenessConfig
from folovllm.v1 import engine_service_pb2
from support.processes.engine_sessions import EngineFixture, FrontEnd, ask, front_end

LIVENESS = LivenessConfig(heartbeat=0.05, silent=0.1, lost=0.3)
HEARTBEAT = engine_service_pb2.Heartbeat()


@pytest.fixture
async def fixture() -> AsyncIterator[EngineFixture]:
    fixture = EngineFixture(liveness=LIVENESS)
    await fixture.start()
    yield fixture
    await fixture.stop()


async def test_heartbeats_are_answered_while_a_step_lasts(fixture: EngineFixture) -> None:
    async with front_end(fixture) as client:
        await client.until(lambda: bool(client.messages))
        assert client.messages[0].answers_heartbeats
        fixture.runner.hold()
        await client.send(generate=ask("a", max_tokens=3))
        await fixture.until_held()
        await client.send(heartbeat=HEARTBEAT)
        await client.until(lambda: client.messages[-1].HasField("heartbeat"))
        assert "a" not in client.outputs
        fixture.runner.release()
        await client.result("a")
        told = [message.answers_heartbeats for message in client.messages]
        answers = [message for message in client.messages if message.HasField("heartbeat")]
        assert told.count(True) == len(answers) == 1


async def test_a_front_end_that_was_given_up_stays_so_whatever_it_says() -> None:
    lost = asyncio.Event()
    peer = SessionPeer("peer", LIVENESS, lost.set)
    peer.asks()
    assert peer.answer() == HEARTBEAT and peer.answer() is None
    await lost.wait()
    peer.heard()
    assert peer.is_lost


async def test_what_a_step_computes_is_told_before_its_end(fixture: EngineFixture) -> None:
    async with front_end(fixture) as client:
        fixture.runner.hold()
        await client.send(generate=ask("first", max_tokens=3))
        await fixture.until_held()
        await client.send(generate=ask("second", max_tokens=3))
        await fixture.until_requests(2)
        await client.until(lambda: scheduled(client) == ["first"])
        assert not client.outputs
        fixture.runner.release()
        for name in ("first", "second"):
            await client.result(name)
        assert scheduled(client).count("first") == 1


def scheduled(client: FrontEnd) -> list[str]:
    """The names that were told, in order."""
    return [name for message in client.messages for name in message.scheduled]


async def test_what_a_silent_front_end_asked_for_is_released(
    fixture: EngineFixture,
) -> None:
    client, other = FrontEnd(fixture), FrontEnd(fixture)
    fixture.runner.hold(after=1)
    for session in (client, other):
        await session.send(generate=ask(f"r{id(session)}", max_tokens=100))
    await fixture.until_requests(2)
    await client.send(heartbeat=HEARTBEAT)
    with pytest.raises(grpc.RpcError) as lost:
        await client.ended
    error = from_rpc_error(lost.value)
    assert isinstance(error, UnavailableError) and "silent" in str(error)
    # One that has never sent a heartbeat may be of a kind that sends none.
    fixture.runner.release()
    assert len((await other.result(f"r{id(other)}")).outputs[0].token_ids) == 100
    other.call.cancel()
    await asyncio.gather(other.ended, return_exceptions=True)
    await fixture.until_free()
