"""What is only token ids comes in columns of a session's messages, in order with all else."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine_service.rpc.session import Session
from folovllm.errors import InvalidRequestError
from folovllm.serving.active_calls import ActiveCalls
from folovllm.v1 import engine_service_pb2, types_pb2
from support.fakes.model_runner import expected_tokens
from support.processes.engine_sessions import (
    PROMPT,
    EngineFixture,
    FrontEnd,
    ask,
    ask_fork,
    front_end,
)

Command = engine_service_pb2.SessionCommand
Events = engine_service_pb2.SessionEvents
Abort = engine_service_pb2.AbortRequest


@pytest.fixture
async def fixture() -> AsyncIterator[EngineFixture]:
    fixture = EngineFixture()
    await fixture.start()
    yield fixture
    await fixture.stop()


@pytest.fixture
async def client(fixture: EngineFixture) -> AsyncIterator[FrontEnd]:
    async with front_end(fixture) as client:
        yield client


class Direct:
    """A session without a socket: its reader takes messages when the test says so.

    `ids` has what has come of each continuation, by its handle.
    """

    def __init__(self, fixture: EngineFixture) -> None:
        self.session = Session(fixture.engine, ActiveCalls(), "test")
        self.commands: asyncio.Queue[Command | None] = asyncio.Queue()
        self.messages = self.session.serve(self._read())
        self.handles: dict[str, int] = {}
        self.ids: dict[int, list[int]] = {}
        self.ended: dict[int, int] = {}
        self.failures: list[str] = []

    def ask(self, name: str, **params: Any) -> None:
        """Sends a request with a handle of its own."""
        self._send(Command(generate=ask(name, **params)), name)

    def fork(self, parent: str, name: str, **params: Any) -> None:
        self._send(Command(fork=ask_fork(parent, name, **params)), name)

    def take(self, message: Events) -> Events:
        """Checks a message, and keeps what it says."""
        columns = message.columns
        counts = columns.num_token_ids or [1] * len(columns.handles)
        token_ids = iter(columns.token_ids)
        assert len({*columns.handles}) == len(columns.handles) == len(counts)
        for handle, count in zip(columns.handles, counts, strict=True):
            self._add(handle, [next(token_ids) for _ in range(count)])
        assert not [*token_ids]
        for output in message.outputs:
            handle = self.handles[output.request_id] + output.index
            self.ids.setdefault(handle, [])
            self._add(handle, output.token_ids)
            if output.finish_reason:
                self.ended[handle] = output.finish_reason
        self.failures += [failure.request_id for failure in message.failures]
        return message

    async def next(self) -> Events:
        return self.take(await anext(self.messages))

    async def close(self) -> None:
        self.commands.put_nowait(None)
        async for message in self.messages:
            self.take(message)

    def _send(self, command: Command, name: str) -> None:
        command.handle = self.handles[name] = 1000 * (1 + len(self.handles))
        self.commands.put_nowait(command)

    def _add(self, handle: int, token_ids: Any) -> None:
        assert handle in self.ids, "columns have come before the first output"
        assert handle not in self.ended
        self.ids[handle] += token_ids

    async def _read(self) -> AsyncIterator[Command]:
        while (command := await self.commands.get()) is not None:
            yield command


@pytest.fixture
async def direct(fixture: EngineFixture) -> AsyncIterator[Direct]:
    direct = Direct(fixture)
    await direct.next()
    yield direct
    await direct.close()


async def until_columns(fixture: EngineFixture, client: FrontEnd) -> None:
    """Goes on once the next ids can only come in columns."""
    fixture.runner.hold(after=2)
    await client.until(lambda: bool(client.outputs))
    while not fixture.engine._streams._routes._routes:
        await asyncio.sleep(0)
    fixture.runner.release()
    await client.until(lambda: any(each.HasField("columns") for each in client.messages))


async def test_outputs_are_the_first_and_the_last_of_each_continuation(
    fixture: EngineFixture, client: FrontEnd
) -> None:
    fixture.runner.hold()
    for i in range(6):
        await client.send(generate=ask(str(i), max_tokens=30, n=2))
    await fixture.until_requests(6)
    await until_columns(fixture, client)
    await client.until(lambda: all(client.finished(str(i), 2) for i in range(6)))
    for i in range(6):
        for index in range(2):
            tokens = client.outputs[str(i)].outputs[index].token_ids
            assert tokens == expected_tokens(PROMPT, 30, seed=7, index=index)
    assert sum(len(message.outputs) for message in client.messages) <= 3 * 12


async def test_a_front_end_without_handles_gets_outputs_only(
    fixture: EngineFixture, client: FrontEnd
) -> None:
    async with front_end(fixture, has_handles=False) as old:
        fixture.runner.hold()
        for name, each in (("new", client), ("old", old)):
            await each.send(generate=ask(name, max_tokens=90))
        await fixture.until_requests(2)
        await until_columns(fixture, client)
        for name, each in (("new", client), ("old", old)):
            result = await each.result(name)
            assert result.outputs[0].token_ids == expected_tokens(PROMPT, 90, seed=7)
        assert not any(message.HasField("columns") for message in old.messages)


async def test_log_probabilities_come_as_outputs(fixture: EngineFixture, client: FrontEnd) -> None:
    await client.send(generate=ask("a", max_tokens=20, logprobs=1))
    result = await client.result("a")
    assert len(result.outputs[0].logprobs) == 20
    assert not any(message.HasField("columns") for message in client.messages)


async def begin(fixture: EngineFixture, direct: Direct, *names: str, **params: Any) -> None:
    """Begins requests, and reads until all of them have routes for their rows."""
    fixture.runner.hold()
    for name in names:
        direct.ask(name, **params)
    await fixture.until_requests(len(names))
    fixture.runner.hold(after=3)
    while len(direct.ids) < len(names) * params.get("n", 1):
        await direct.next()
    await fixture.until_held()


async def test_a_handle_out_of_bounds_is_refused(fixture: EngineFixture, client: FrontEnd) -> None:
    await client.call.write(Command(generate=ask("a"), handle=10**15 + 1))
    with pytest.raises(InvalidRequestError) as refused:
        await client.result("a")
    assert refused.value.field == "handle"


@pytest.mark.parametrize("max_ids", [4096, 30])
async def test_what_a_front_end_has_not_read_is_joined(
    fixture: EngineFixture, direct: Direct, monkeypatch: pytest.MonkeyPatch, max_ids: int
) -> None:
    monkeypatch.setattr("engine_service.rpc.pending_rows._MAX_IDS", max_ids)
    await begin(fixture, direct, *"abcde", max_tokens=80, n=2)
    fixture.runner.release()
    await fixture.until_free()
    last = await direct.next()
    assert len(direct.ended) == 10
    # What there is no room for in columns comes as outputs.
    if max_ids == 4096:
        assert len(last.columns.handles) == len(last.outputs) == 10
        assert len(last.columns.token_ids) >= 10 * 70
    else:
        assert len(last.columns.token_ids) == max_ids and len(last.outputs) > 20
    for handle in direct.handles.values():
        for index in range(2):
            expected = expected_tokens(PROMPT, 80, seed=7, index=index)
            assert direct.ids[handle + index] == expected


async def test_nothing_comes_of_what_was_cancelled(fixture: EngineFixture, direct: Direct) -> None:
    await begin(fixture, direct, "stays", "goes", max_tokens=50)
    fixture.runner.hold(after=20)
    await fixture.until_held()
    direct.commands.put_nowait(Command(cancel="goes"))
    while "goes" in direct.session._running:
        await asyncio.sleep(0)
    stays, goes = (direct.handles[name] for name in ("stays", "goes"))
    count = len(direct.ids[goes])
    fixture.runner.release()
    while stays not in direct.ended:
        await direct.next()
    assert len(direct.ids[goes]) == count < 10 and goes not in direct.ended
    assert direct.ids[stays] == expected_tokens(PROMPT, 50, seed=7)


async def test_rows_come_before_the_error_that_ends_their_request(
    fixture: EngineFixture, direct: Direct
) -> None:
    await begin(fixture, direct, "a", max_tokens=50)
    fixture.runner.hold(after=10)
    await fixture.until_held()
    fixture.runner.failure = RuntimeError("the device is gone")
    fixture.runner.release()
    await fixture.engine.wait_died()
    await direct.next()
    assert direct.failures == ["a"]
    assert direct.ids[direct.handles["a"]] == expected_tokens(PROMPT, 13, seed=7)


async def test_rows_of_one_index_are_in_order_while_another_one_ends(
    fixture: EngineFixture, direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_service.rpc.outbox._MAX_BYTES", 1)
    monkeypatch.setattr("engine_service.rpc.pending_rows._MAX_IDS", 3)
    await begin(fixture, direct, "a", max_tokens=60, n=2)
    fixture.runner.hold(after=10)
    await fixture.until_held()
    direct.commands.put_nowait(Command(abort=Abort(request_id="a", indexes=[0])))
    # A row comes between each two messages, of which each has a part only.
    for _ in range(20):
        fixture.runner.hold(after=1)
        await fixture.until_held()
        await direct.next()
    fixture.runner.release()
    first = direct.handles["a"]
    while first + 1 not in direct.ended:
        await direct.next()
    assert direct.ended[first] == types_pb2.FINISH_REASON_ABORT
    assert direct.ids[first + 1] == expected_tokens(PROMPT, 60, seed=7, index=1)


class Chance:
    """A front end that lags at random, and aborts, cancels and forks what it runs."""

    def __init__(self, fixture: EngineFixture, name: str, rng: random.Random) -> None:
        self.direct, self._name, self._rng = Direct(fixture), name, rng
        self.sizes: dict[int, tuple[int, int]] = {}  # length and index, by handle
        self._running: set[str] = set()

    def begin(self) -> None:
        rng = self._rng
        for i in range(12):
            name, length, n = f"{self._name}{i}", rng.randint(1, 60), rng.randint(1, 3)
            self.direct.ask(name, max_tokens=length, n=n, **rng.choice([{}, {"logprobs": 1}]))
            self._running.add(name)
            for index in range(n):
                self.sizes[self.direct.handles[name] + index] = length, index

    async def run(self) -> None:
        direct, rng = self.direct, self._rng
        async for message in direct.messages:
            direct.take(message)
            for _ in range(rng.choice([0, 0, 5, 200])):
                await asyncio.sleep(0)
            self._running -= {name for name in self._running if self._ended(name)}
            if not self._running:
                direct.commands.put_nowait(None)
            elif rng.random() < 0.1:
                self._disturb(rng.choice(sorted(self._running)))

    def _disturb(self, name: str) -> None:
        direct = self.direct
        kind = self._rng.choice(["abort", "cancel", "fork"])
        if kind == "abort":
            abort = Abort(request_id=name, indexes=[0])
            direct.commands.put_nowait(Command(abort=abort))
        elif kind == "cancel":
            direct.commands.put_nowait(Command(cancel=name))
            self._running.remove(name)
        else:
            direct.fork(name, f"fork{len(direct.handles)} of {name}", max_tokens=7)

    def _ended(self, name: str) -> bool:
        first = self.direct.handles[name]
        return all(
            handle in self.direct.ended for handle in self.sizes if first <= handle < first + 1000
        )


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_all_is_in_order(
    fixture: EngineFixture, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Two front ends, beside a call of its own."""
    monkeypatch.setattr("engine_service.rpc.outbox._MAX_BYTES", 300)
    monkeypatch.setattr("engine_service.rpc.pending_rows._MAX_IDS", 3)
    monkeypatch.setattr("engine_service.engine.output_stream._MAX_IDS", 5)
    fronts = [Chance(fixture, name, random.Random(f"{name}{seed}")) for name in ("a", "b")]
    alone = asyncio.ensure_future(fixture.generate(ask("alone", max_tokens=100)))
    for front in fronts:
        front.begin()
    await asyncio.gather(*(front.run() for front in fronts))
    await fixture.until_free()
    assert not fixture.engine._streams._routes._routes
    assert (await alone).outputs[0].token_ids == expected_tokens(PROMPT, 100, seed=7)
    num_whole = 0
    for front in fronts:
        for handle, (length, index) in front.sizes.items():
            ids = front.direct.ids.get(handle, [])
            assert ids == expected_tokens(PROMPT, length, seed=7, index=index)[: len(ids)]
            if front.direct.ended.get(handle) == types_pb2.FINISH_REASON_LENGTH:
                assert len(ids) == length
                num_whole += 1
    assert num_whole > 10
