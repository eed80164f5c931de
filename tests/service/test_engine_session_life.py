"""What a session waits for, tells of the load, and how it ends, with a fake model."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import structlog

from engine_service.core.token_matcher import TokenMatcher
from engine_service.engine.commands import Matchers, StreamCommand
from folovllm.errors import InvalidRequestError, QueueFullError, UnavailableError, from_rpc_error
from folovllm.v1 import engine_service_pb2, types_pb2
from support.fakes.model_runner import expected_tokens
from support.processes.engine_sessions import (
    NUM_BLOCKS,
    PROMPT,
    EngineFixture,
    FrontEnd,
    ask,
    front_end,
)

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


class Anything:
    """The matcher of a grammar that lets every output pass."""

    must_stop = False
    is_spent = False

    def advance(self, token_id: int) -> None:
        pass

    def copy(self) -> TokenMatcher:
        return self


class Compiler:
    """Compiles every grammar to Anything, as soon as the test lets it."""

    def __init__(self, fixture: EngineFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        self._gate = asyncio.Event()
        self.num_started = 0
        monkeypatch.setattr(fixture.engine, "make_matchers", self._compile)

    async def _compile(self, command: StreamCommand, caller: str = "") -> Matchers:
        if not command.follows_grammar:
            return ()
        self.num_started += 1
        await self._gate.wait()
        return [
            Anything() if params.follows_grammar else None for _, params in command.sampling_params
        ]

    async def until_started(self, number: int) -> None:
        while self.num_started < number:
            await asyncio.sleep(0)

    def finish(self) -> None:
        self._gate.set()


@pytest.fixture
async def compiler(
    fixture: EngineFixture, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Compiler]:
    compiler = Compiler(fixture, monkeypatch)
    yield compiler
    compiler.finish()


async def test_no_one_waits_for_the_grammar_of_another(
    fixture: EngineFixture, compiler: Compiler, client: FrontEnd
) -> None:
    await client.send(generate=ask("grammar", max_tokens=4, regex="a"))
    await compiler.until_started(1)
    await client.send(generate=ask("plain", max_tokens=5))
    assert len((await client.result("plain")).outputs[0].token_ids) == 5
    await client.send(generate=ask("grammar", max_tokens=9))
    with pytest.raises(InvalidRequestError, match="running already"):
        await client.result("grammar")
    client.failures.clear()
    compiler.finish()
    result = await client.result("grammar")
    assert result.outputs[0].token_ids == expected_tokens(PROMPT, 4, seed=7)
    branch = types_pb2.SamplingParams(max_tokens=3, regex="a")
    fixture.runner.hold(after=1)
    await client.send(generate=ask("parent", max_tokens=90))
    await client.until(lambda: "parent" in client.outputs)
    fork = types_pb2.ForkRequest(request_id="parent", fork_id="f", branches=[branch])
    await client.send(fork=fork)
    await fixture.until_requests(2)
    fixture.runner.release()
    assert len((await client.result("f")).outputs[0].token_ids) == 3


async def test_queue_time_includes_the_compilation_of_a_grammar(
    fixture: EngineFixture, compiler: Compiler, client: FrontEnd
) -> None:
    fixture.runner.hold(after=1)
    await client.send(generate=ask("parent", max_tokens=90))
    await client.until(lambda: "parent" in client.outputs)
    branch = types_pb2.SamplingParams(max_tokens=3, regex="a")
    fork = types_pb2.ForkRequest(request_id="parent", fork_id="fork", branches=[branch])
    await client.send(generate=ask("grammar", max_tokens=3, regex="a"))
    await client.send(fork=fork)
    await compiler.until_started(2)
    await asyncio.sleep(0.05)  # the time that compiling takes
    compiler.finish()
    await fixture.until_requests(3)
    fixture.runner.release()
    for name in ("grammar", "fork"):
        metrics = (await client.result(name)).outputs[0].metrics
        assert metrics and metrics.queue >= 0.05


async def test_the_end_may_come_before_the_grammar(
    fixture: EngineFixture, compiler: Compiler, client: FrontEnd
) -> None:
    for name in ("cancelled", "aborted"):
        await client.send(generate=ask(name, max_tokens=90, regex="a"))
    await compiler.until_started(2)
    await client.send(cancel="cancelled")
    await client.send(abort=Abort(request_id="aborted"))
    await client.send(generate=ask("last", max_tokens=1))
    await client.result("last")
    # Whoever reads a message may be ahead of the one who wrote it and then closes its requests.
    while len(fixture.server.active_calls) > 1:
        await asyncio.sleep(0)
    assert len(fixture.server.active_calls) == 1
    compiler.finish()
    assert (await client.result("aborted")).outputs[0].finish_reason == "abort"
    await fixture.until_free()
    assert set(client.outputs) == {"aborted", "last"} and not client.failures


async def test_a_front_end_may_leave_before_its_grammars(
    fixture: EngineFixture, compiler: Compiler
) -> None:
    client = FrontEnd(fixture)
    for i in range(3):
        await client.send(generate=ask(str(i), max_tokens=90, regex="a"))
    await compiler.until_started(1)
    client.call.cancel()
    await asyncio.gather(client.ended, return_exceptions=True)
    while len(fixture.server.active_calls):
        await asyncio.sleep(0)
    compiler.finish()
    await fixture.until_free()


async def test_grammars_under_way_count_for_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = EngineFixture(max_num_waiting=2)
    compiler = Compiler(fixture, monkeypatch)
    await fixture.start()
    async with front_end(fixture) as client:
        for i in range(3):
            await client.send(generate=ask(str(i), max_tokens=2, regex="a"))
        with pytest.raises(QueueFullError):
            await client.result("2")
        compiler.finish()
        for name in "01":
            await client.result(name)
    await fixture.stop()


async def test_a_drain_loses_no_request_of_a_session_and_then_ends_it() -> None:
    fixture = EngineFixture()
    await fixture.start()
    client, idle = FrontEnd(fixture), FrontEnd(fixture)
    for session in (client, idle):
        await session.until(lambda session=session: bool(session.loads))  # type: ignore[misc]
    fixture.runner.hold()
    names = [str(i) for i in range(30)]
    for name in names:
        await client.send(generate=ask(name, max_tokens=50))
    await fixture.until_requests(30)
    assert len(fixture.server.active_calls) == 30
    fixture.server.request_stop()
    drain = asyncio.ensure_future(fixture.server.drain())
    await asyncio.sleep(0)
    for session in (client, idle):
        await session.until(lambda session=session: session.messages[-1].drains)  # type: ignore[misc]
        await session.send(generate=ask("late"))
        await session.send(generate=ask("moved"), moved=engine_service_pb2.Moved())
        for name in ("late", "moved"):
            with pytest.raises(UnavailableError, match="shutting down"):
                await session.result(name)
        assert sum(message.drains for message in session.messages) == 1
    with pytest.raises(grpc.RpcError) as refused:
        await FrontEnd(fixture).ended
    assert isinstance(from_rpc_error(refused.value), UnavailableError)
    await client.send(cancel="29")
    fixture.runner.release()
    with structlog.testing.capture_logs() as lines:
        await asyncio.gather(client.ended, idle.ended)
        await drain
    assert {"event": "stopped", "cut_off": 0, "log_level": "info"} in lines
    for name in names[:29]:
        assert client.outputs[name].outputs[0].token_ids == expected_tokens(PROMPT, 50, seed=7)
        assert client.finished(name)
    assert len(fixture.server.active_calls) == 0
    await fixture.engine.stop()
    await fixture.channel.close()


async def test_a_grammar_holds_a_drain_up(
    fixture: EngineFixture, compiler: Compiler, client: FrontEnd
) -> None:
    await client.send(generate=ask("a", max_tokens=3, regex="a"))
    await compiler.until_started(1)
    drain = asyncio.ensure_future(fixture.server.active_calls.drain(60))
    await asyncio.sleep(0)
    compiler.finish()
    await client.ended
    assert client.finished("a") and await drain


def after_one(
    idle: engine_service_pb2.GetLoadResponse,
) -> engine_service_pb2.GetLoadResponse:
    """The load of an engine that was idle before, and is again after one request."""
    load = engine_service_pb2.GetLoadResponse(num_admitted=1)
    load.MergeFrom(idle)
    return load


async def test_the_load_comes_first_and_with_outputs(
    fixture: EngineFixture, client: FrontEnd
) -> None:
    await client.until(lambda: bool(client.messages))
    assert len(client.messages) == 1 and not client.messages[0].outputs
    assert client.loads[0].num_free_kv_blocks == NUM_BLOCKS
    assert client.loads[0].num_admissible == 300
    fixture.runner.hold(after=3)
    await client.send(generate=ask("a", max_tokens=20))
    await client.until(lambda: "a" in client.outputs)
    with_outputs = [message for message in client.messages if message.outputs]
    assert with_outputs[0].load.num_running == with_outputs[0].load.num_requests == 1
    fixture.runner.release()
    await client.result("a")
    # The last message has the load that remains, and it never comes twice in a row.
    assert client.loads[-1] == after_one(client.loads[0])
    assert all(a != b for a, b in zip(client.loads, client.loads[1:], strict=False))


async def test_the_load_of_others_comes_soon(fixture: EngineFixture, client: FrontEnd) -> None:
    await client.until(lambda: bool(client.loads))
    fixture.runner.hold()
    loop = asyncio.get_running_loop()
    began = loop.time()
    call = asyncio.ensure_future(fixture.generate(ask("other", max_tokens=100)))
    await fixture.until_requests(1)
    assert all(timer.when() <= loop.time() + 0.1 for timer in timers_of_load())
    await client.until(lambda: client.loads[-1].num_requests == 1)
    fixture.runner.release()
    await call
    await client.until(lambda: client.loads[-1] == after_one(client.loads[0]))
    assert not any(message.outputs for message in client.messages)
    # A hundred steps of others are a few messages.
    assert len(client.messages) <= 3 + (loop.time() - began) / 0.1


async def test_an_idle_session_sends_nothing_and_has_no_timer(
    fixture: EngineFixture, client: FrontEnd
) -> None:
    await client.send(generate=ask("a", max_tokens=20))
    await client.result("a")
    await fixture.until_free()
    while timers_of_load():
        await asyncio.sleep(0.01)
    number = len(client.messages)
    await asyncio.wait({client.ended}, timeout=0.3)
    assert len(client.messages) == number and not timers_of_load()


def timers_of_load() -> list[asyncio.TimerHandle]:
    """What the event loop will call for a session's load."""
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return [timer for timer in scheduled if "LoadReports" in repr(timer)]


async def test_before_the_model_is_loaded_there_is_no_session() -> None:
    fixture = EngineFixture()
    await fixture.server.start()
    with pytest.raises(grpc.RpcError) as refused:
        await FrontEnd(fixture).ended
    assert isinstance(from_rpc_error(refused.value), UnavailableError)
    await fixture.engine.start()
    await fixture.stop()
