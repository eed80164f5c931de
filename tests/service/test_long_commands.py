"""Commands of a session that are read in pieces, and what comes meanwhile, with a fake model."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from folovllm.errors import InvalidRequestError, NotFoundError, QueueFullError
from folovllm.serving.turns import LONG_BYTES, Turns
from folovllm.v1 import engine_service_pb2, types_pb2
from support.processes.engine_sessions import EngineFixture, FrontEnd, ask, front_end

Abort = engine_service_pb2.AbortRequest
NUM_BRANCHES = 6


@pytest.fixture
async def fixture() -> AsyncIterator[EngineFixture]:
    fixture = EngineFixture()
    await fixture.start()
    yield fixture
    await fixture.stop()


@pytest.fixture
async def client(fixture: EngineFixture) -> AsyncIterator[FrontEnd]:
    """With a request that runs, and is held at its second step."""
    async with front_end(fixture) as client:
        fixture.runner.hold(after=1)
        await client.send(generate=ask("parent", max_tokens=40))
        await client.until(lambda: "parent" in client.outputs)
        yield client


class Gate:
    """Counts the pauses in long work, and lets none of it go on until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_pauses = 0
        self._open = asyncio.Event()
        monkeypatch.setattr(Turns, "take", lambda turns: self._pause())

    async def _pause(self) -> None:
        self.num_pauses += 1
        await self._open.wait()

    async def until_paused(self) -> None:
        while not self.num_pauses:
            await asyncio.sleep(0)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def long_fork(parent: str, name: str, num_branches: int = NUM_BRANCHES) -> types_pb2.ForkRequest:
    """A fork each of whose branches is long work."""
    long_bias = dict.fromkeys(range(900), 0.0)
    branches = [
        types_pb2.SamplingParams(
            seed=seed, max_tokens=3, temperature=0.0, ignore_eos=True, logit_bias=long_bias,
            bad_words_token_ids=[types_pb2.TokenIds(ids=[998] * 300)] * 10,
        )
        for seed in range(num_branches)
    ]  # fmt: skip
    assert LONG_BYTES / 2 < branches[0].ByteSize() < LONG_BYTES
    return types_pb2.ForkRequest(request_id=parent, fork_id=name, branches=branches)


async def test_a_long_fork_is_read_in_pieces_while_other_commands_are_executed(
    fixture: EngineFixture, client: FrontEnd, gate: Gate
) -> None:
    await client.send(fork=long_fork("parent", "f"))
    await gate.until_paused()
    await client.send(generate=ask("other", max_tokens=2))
    await fixture.until_requests(2)
    await client.send(fork=long_fork("parent", "f", 1))  # the name is in use
    with pytest.raises(InvalidRequestError, match="running already"):
        await client.result("f")
    assert gate.num_pauses == 1
    gate.open()
    await fixture.until_requests(3)
    assert gate.num_pauses == NUM_BRANCHES - 1
    fixture.runner.release()
    await client.until(lambda: client.finished("f", NUM_BRANCHES))
    parent = await client.result("parent")
    for output in client.outputs["f"].outputs:
        assert output.info is not None and len(output.token_ids) == 3
        had = list(output.info.parent_output_token_ids)
        assert had and had == parent.outputs[0].token_ids[: len(had)]
    assert client.finished("other")


async def test_a_long_request_out_of_bounds_is_refused_and_not_kept_until_its_turn(
    fixture: EngineFixture, client: FrontEnd, gate: Gate
) -> None:
    bomb = ask("bomb", max_tokens=1)
    bomb.sampling_params.bad_words_token_ids.extend([types_pb2.TokenIds()] * LONG_BYTES)
    await client.send(generate=bomb)
    with pytest.raises(InvalidRequestError, match="bad_words_token_ids"):
        await client.result("bomb")
    assert gate.num_pauses == 0
    fixture.runner.release()
    await client.result("parent")


async def test_its_cancel_does_not_overtake_it(
    fixture: EngineFixture, client: FrontEnd, gate: Gate
) -> None:
    await client.send(fork=long_fork("parent", "f"))
    await gate.until_paused()
    await client.send(cancel="f")
    await client.send(generate=ask("f", max_tokens=2))  # the name is free again
    await fixture.until_requests(2)
    gate.open()
    fixture.runner.release()
    assert len((await client.result("f")).outputs[0].token_ids) == 2
    assert not client.failures
    await client.result("parent")
    await fixture.until_free()


@pytest.mark.parametrize("indexes", [[], [1, 3], [5_000]])
async def test_its_abort_does_not_overtake_it(
    fixture: EngineFixture, client: FrontEnd, gate: Gate, indexes: list[int]
) -> None:
    await client.send(fork=long_fork("parent", "f"))
    await gate.until_paused()
    aborts = [Abort(request_id="f", indexes=[index]) for index in indexes]
    for abort in aborts or [Abort(request_id="f")]:
        await client.send(abort=abort)
    await client.send(generate=ask("last", max_tokens=1))
    await fixture.until_requests(2)
    gate.open()
    await fixture.until_requests(3)
    fixture.runner.release()
    await client.until(lambda: client.finished("f", NUM_BRANCHES))
    aborted = [
        output.index for output in client.outputs["f"].outputs if output.finish_reason == "abort"
    ]
    expected = [each for each in indexes if each < NUM_BRANCHES]
    assert aborted == (expected if indexes else [*range(NUM_BRANCHES)])


async def test_a_fork_of_it_waits_for_it(
    fixture: EngineFixture, client: FrontEnd, gate: Gate
) -> None:
    await client.send(fork=long_fork("parent", "f"))
    await client.send(fork=long_fork("f", "g", 1))
    await gate.until_paused()
    await client.send(generate=ask("last", max_tokens=1))
    await fixture.until_requests(2)
    gate.open()
    await fixture.until_requests(4)
    fixture.runner.release()
    await client.until(lambda: client.finished("g") and client.finished("f", NUM_BRANCHES))
    assert not client.failures


async def test_what_is_wrong_in_a_later_piece_is_its_failure(
    fixture: EngineFixture, client: FrontEnd, gate: Gate
) -> None:
    fork = long_fork("parent", "f")
    fork.branches[4].top_p = 1.5
    await client.send(fork=fork)
    await client.send(fork=long_fork("nobody", "g"))
    await gate.until_paused()
    gate.open()
    with pytest.raises(InvalidRequestError) as refused:
        await client.result("f")
    assert refused.value.field == "branches[4].top_p"
    fixture.runner.release()
    with pytest.raises(NotFoundError):
        await client.result("g")


async def test_a_front_end_that_leaves_ends_what_is_being_read(
    fixture: EngineFixture, gate: Gate
) -> None:
    fixture.runner.hold(after=1)
    client = FrontEnd(fixture)
    await client.send(generate=ask("parent", max_tokens=40))
    await client.until(lambda: "parent" in client.outputs)
    await client.send(fork=long_fork("parent", "f"))
    await gate.until_paused()
    client.call.cancel()
    await asyncio.gather(client.ended, return_exceptions=True)
    await fixture.until_closed()
    gate.open()
    fixture.runner.release()
    await fixture.until_free()
    assert len(fixture.server.active_calls) == 0 and gate.num_pauses == 1


async def test_what_is_being_read_is_bounded_in_bytes(
    fixture: EngineFixture, client: FrontEnd, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = long_fork("parent", "f")
    limit = 2 * fork.ByteSize() + 100
    monkeypatch.setattr("engine_service.rpc.open_sessions.MAX_HELD_BYTES", limit)
    for name in "abc":
        await client.send(fork=long_fork("parent", name))
    with pytest.raises(QueueFullError):
        await client.result("c")
    gate.open()
    await fixture.until_requests(3)
    await client.send(fork=long_fork("parent", "d"))
    await fixture.until_requests(4)
    fixture.runner.release()
    for name in "abd":
        await client.until(lambda name=name: client.finished(name, NUM_BRANCHES))  # type: ignore[misc]
