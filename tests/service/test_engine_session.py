"""A session of the engine service on a real socket, with a fake model."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from engine_service.rpc import request_reader
from engine_service.rpc.session import Session
from folovllm.errors import InvalidRequestError, NotFoundError, ServerError, UnavailableError
from folovllm.outputs import CompletionOutput, RequestOutput
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


def comparable(result: RequestOutput) -> list[Any]:
    """All of a result but its name, its times and what was cached."""
    assert result.info
    return [result.info.sampling_params, result.info.prompt_logprobs] + [
        (output.token_ids, output.logprobs, output.cumulative_logprob, output.finish_reason)
        for output in result.outputs
    ]


async def test_requests_of_a_session_equal_calls_of_their_own(
    fixture: EngineFixture, client: FrontEnd
) -> None:
    requests = [
        ask(f"{i}", seed=i, max_tokens=1 + i % 30, n=1 + i % 3, logprobs=i % 3, prompt_logprobs=1)
        for i in range(60)
    ]
    for index, request in enumerate(requests):
        request.prompt_token_ids[:] = [index] * (1 + index % 20)
        await client.send(generate=request)
    await client.until(
        lambda: all(client.finished(r.request_id, r.sampling_params.n) for r in requests)
    )
    await fixture.until_free()
    for request in requests:
        alone = await fixture.generate(request)
        assert comparable(client.outputs[request.request_id]) == comparable(alone)
    assert not client.failures


async def test_a_step_is_one_message(fixture: EngineFixture, client: FrontEnd) -> None:
    fixture.runner.hold()
    for i in range(12):
        await client.send(generate=ask(str(i), max_tokens=20))
    await fixture.until_requests(12)
    before = len(fixture.runner.steps)
    fixture.runner.release()
    for i in range(12):
        assert (await client.result(str(i))).outputs[0].token_ids == expected_tokens(
            PROMPT, 20, seed=7
        )
    with_outputs = [message for message in client.messages if message.outputs]
    assert len(with_outputs) <= len(fixture.runner.steps) - before
    for message in with_outputs:
        names = [output.request_id for output in message.outputs]
        assert len(names) == len(set(names))


class Direct:
    """A session without a socket: its reader takes messages when the test says so."""

    def __init__(self, fixture: EngineFixture) -> None:
        self.active_calls = ActiveCalls()
        self.session = Session(fixture.engine, self.active_calls, "test")
        self.commands: asyncio.Queue[Command | None] = asyncio.Queue()
        self.messages = self.session.serve(self._read())

    async def _read(self) -> AsyncIterator[Command]:
        while (command := await self.commands.get()) is not None:
            yield command


async def test_what_waits_while_a_message_is_written_is_merged(fixture: EngineFixture) -> None:
    direct = Direct(fixture)
    await anext(direct.messages)
    fixture.runner.hold(after=1)
    for i in range(10):
        direct.commands.put_nowait(Command(generate=ask(str(i), max_tokens=30, n=2)))
    first = await anext(direct.messages)
    await fixture.until_requests(10)
    fixture.runner.release()
    await fixture.until_free()
    second = await anext(direct.messages)
    assert len(second.outputs) == 20
    assert all(output.finish_reason for output in second.outputs)
    joined = {(o.request_id, o.index): list(o.token_ids) for o in first.outputs}
    for output in second.outputs:
        tokens = joined.get((output.request_id, output.index), []) + list(output.token_ids)
        assert tokens == expected_tokens(PROMPT, 30, seed=7, index=output.index)
    assert len(direct.active_calls) == 10
    direct.commands.put_nowait(None)
    assert [message async for message in direct.messages] == []
    assert len(direct.active_calls) == 0


async def test_messages_are_bounded(
    fixture: EngineFixture, client: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_service.rpc.outbox._MAX_BYTES", 600)
    monkeypatch.setattr("engine_service.engine.output_stream._MAX_IDS", 4)
    fixture.runner.hold()
    for i in range(10):
        await client.send(generate=ask(str(i), max_tokens=20, logprobs=3))
        await client.send(generate=ask("0", max_tokens=5))
    await fixture.until_requests(10)
    fixture.runner.release()
    await client.until(lambda: all(client.finished(str(i)) for i in range(10)))
    for message in client.messages:
        parts = len(message.outputs) + len(message.failures)
        message.ClearField("load")
        assert parts <= 1 or message.ByteSize() < 600 + 4 * parts
    for i in range(10):
        assert client.outputs[str(i)].outputs[0].token_ids == expected_tokens(PROMPT, 20, seed=7)


async def test_abort_ends_with_final_messages(fixture: EngineFixture, client: FrontEnd) -> None:
    fixture.runner.hold(after=1)
    other = asyncio.ensure_future(fixture.generate(ask("other", max_tokens=100)))
    await fixture.until_held()
    for name in ("whole", "part"):
        await client.send(generate=ask(name, max_tokens=40, n=2))
    for abort in (Abort(request_id="whole"), Abort(request_id="part", indexes=[1])):
        await client.send(abort=abort)
    for name in ("other", "unknown"):
        await client.send(abort=Abort(request_id=name))
    await client.send(cancel="never known")
    await client.send(generate=ask("last", max_tokens=1))
    await fixture.until_requests(4)
    fixture.runner.release()
    assert (await other).outputs[0].finish_reason == "abort"
    await client.result("last")
    await client.until(lambda: client.finished("whole", 2) and client.finished("part", 2))
    reasons = {
        name: [output.finish_reason for output in client.outputs[name].outputs]
        for name in ("whole", "part")
    }
    assert reasons == {"whole": ["abort", "abort"], "part": ["length", "abort"]}
    assert not client.failures


async def test_an_abort_that_is_out_of_bounds_ends_nothing(
    fixture: EngineFixture, client: FrontEnd
) -> None:
    fixture.runner.hold(after=1)
    await client.send(generate=ask("good", max_tokens=3))
    await client.until(lambda: "good" in client.outputs)
    for abort in (
        engine_service_pb2.AbortRequest(request_id="good", indexes=range(129)),
        engine_service_pb2.AbortRequest(request_id="n" * 3_000_000),
    ):
        await client.send(abort=abort)
    await client.send(generate=ask("next", max_tokens=3))
    fixture.runner.release()
    await client.until(lambda: client.finished("good") and client.finished("next"))
    for name in ("good", "next"):
        assert client.outputs[name].outputs[0].finish_reason == "length"
    assert not client.failures


async def test_cancel_frees_within_a_step_and_nothing_more_comes(
    fixture: EngineFixture, client: FrontEnd
) -> None:
    fixture.runner.hold(after=1)
    for i in range(20):
        await client.send(generate=ask(str(i), max_tokens=100, n=2))
    await fixture.until_requests(20)
    await client.until(lambda: "0" in client.outputs)
    for i in range(20):
        await client.send(cancel=str(i))
    await fixture.until_closed()
    messages, steps = len(client.messages), len(fixture.runner.steps)
    fixture.runner.release()
    await fixture.until_free()
    assert len(fixture.runner.steps) <= steps + 1
    await client.send(generate=ask("last", max_tokens=1))
    await client.result("last")
    names = {o.request_id for message in client.messages[messages:] for o in message.outputs}
    assert names == {"last"}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"generate": ask("x", top_p=1.5)}, "sampling_params.top_p"),
    ({"generate": ask("x", stop=["text"])}, "sampling_params.stop"),
    ({"generate": ask("x", stop_token_ids=range(129))}, "sampling_params.stop_token_ids"),
    ({"generate": ask("x", max_tokens=1000)}, "sampling_params.max_tokens"),
    ({"generate": ask("x", regex="a")}, "sampling_params.regex"),
    ({"generate": types_pb2.Request(request_id="x")}, "prompt_token_ids"),
    ({"generate": ask("")}, "request_id"),
    ({"generate": ask("x" * 257)}, "request_id"),
    ({"generate": ask("é" * 2_000_000)}, "request_id"),
    ({"generate": ask("good")}, "request_id"),
    ({}, "request_id"),
    ({"fork": ask_fork("good", "")}, "fork_id"),
    ({"fork": ask_fork("good", "good")}, "fork_id"),
    ({"fork": ask_fork("p" * 3_000_000, "x")}, "request_id"),
    ({"fork": ask_fork("good", "x", n=2)}, "branches[0].n"),
    ({"fork": types_pb2.ForkRequest(request_id="good", fork_id="x")}, "branches"),
    ({"fork": ask_fork("good", "x", max_tokens=1000)}, "branches[0].max_tokens"),
]


@pytest.mark.parametrize(("command", "field"), BAD)
async def test_a_bad_request_fails_alone_and_names_its_field(
    fixture: EngineFixture, client: FrontEnd, command: dict[str, Any], field: str
) -> None:
    fixture.runner.hold(after=1)
    await client.send(generate=ask("good", max_tokens=40))
    await client.until(lambda: "good" in client.outputs)
    await client.send(**command)
    await client.send(generate=ask("next", max_tokens=3))
    while "next" not in fixture.engine._streams:
        await asyncio.sleep(0)
    fixture.runner.release()
    await client.until(
        lambda: bool(client.failures) and client.finished("good") and client.finished("next")
    )
    for name, length in (("good", 40), ("next", 3)):
        tokens = client.outputs[name].outputs[0].token_ids
        assert tokens == expected_tokens(PROMPT, length, seed=7)
    (error,) = client.failures.values()
    assert isinstance(error, InvalidRequestError) and error.field == field
    await fixture.until_free()


async def test_names_are_refused_while_they_run_elsewhere_and_free_after_their_end(
    fixture: EngineFixture, client: FrontEnd
) -> None:
    fixture.runner.hold()
    call = asyncio.ensure_future(fixture.generate(ask("a", max_tokens=3)))
    await fixture.until_requests(1)
    await client.send(generate=ask("a", max_tokens=4))
    with pytest.raises(InvalidRequestError, match="running already"):
        await client.result("a")
    fixture.runner.release()
    assert len((await call).outputs[0].token_ids) == 3
    client.failures.clear()
    for _ in range(3):
        client.outputs.clear()
        await client.send(generate=ask("a", max_tokens=4))
        assert len((await client.result("a")).outputs[0].token_ids) == 4


async def test_forks_of_parents_within_and_without(
    fixture: EngineFixture, client: FrontEnd
) -> None:
    fixture.runner.hold(after=1)
    outside = fixture.stub.Generate(ask("outside", max_tokens=30))
    await anext(aiter(outside))
    await fixture.until_held()
    await client.send(generate=ask("inside", max_tokens=30))
    await client.send(fork=ask_fork("outside", "f", seed=1, max_tokens=5))
    await client.send(fork=ask_fork("inside", "g", seed=2, max_tokens=6))
    await client.send(fork=ask_fork("nobody", "h"))
    await fixture.until_requests(5)
    fixture.runner.release()
    with pytest.raises(NotFoundError):
        await client.result("h")
    for name, seed, length in (("f", 1, 5), ("g", 2, 6)):
        result = await client.result(name)
        assert result.info
        had = list(result.info.parent_output_token_ids)
        assert had == expected_tokens(PROMPT, len(had), seed=7)
        expected = expected_tokens([*PROMPT, *had], length, seed=seed)
        assert result.outputs[0].token_ids == expected
    assert len((await client.result("inside")).outputs[0].token_ids) == 30
    assert len([t async for message in outside for t in message.token_ids]) == 29


_CLIENT = """
import queue, sys, grpc
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2
stub = engine_service_pb2_grpc.EngineServiceStub(grpc.insecure_channel(sys.argv[1]))
params = types_pb2.SamplingParams(n=4, max_tokens=100, ignore_eos=True)
commands = queue.Queue()
for name in "abcdefgh":
    request = types_pb2.Request(request_id=name, prompt_token_ids=[1], sampling_params=params)
    commands.put(engine_service_pb2.SessionCommand(generate=request))
for message in stub.Session(iter(commands.get, None)):
    if message.outputs:
        print("running", flush=True)
"""


@pytest.mark.parametrize("how", ["dies", "cancels", "half-closes"])
async def test_a_front_end_that_leaves_frees_all(fixture: EngineFixture, how: str) -> None:
    fixture.runner.hold(after=1)
    if how == "dies":
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CLIENT, fixture.address, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout
        await process.stdout.readline()
        await fixture.until_requests(8)
        process.kill()
        await process.communicate()
    else:
        client = FrontEnd(fixture)
        for name in "abcdefgh":
            await client.send(generate=ask(name, max_tokens=100, n=4))
        await fixture.until_requests(8)
        if how == "cancels":
            client.call.cancel()
        else:
            await client.call.done_writing()
        await asyncio.gather(client.ended, return_exceptions=True)
    await fixture.until_closed()
    steps = len(fixture.runner.steps)
    fixture.runner.release()
    await fixture.until_free()
    assert len(fixture.runner.steps) <= steps + 1
    assert len(fixture.server.active_calls) == 0


async def test_a_bug_in_one_request_is_logged_and_harms_no_other(
    fixture: EngineFixture, client: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_proto = CompletionOutput.to_proto

    def fail(output: CompletionOutput) -> types_pb2.CompletionOutput:
        if output.request_id == "out" and output.finished():
            raise KeyError("a bug")
        return to_proto(output)

    monkeypatch.setattr(CompletionOutput, "to_proto", fail)
    read_generate = request_reader.read_generate

    def fail_to_read(message: types_pb2.Request, *rest: Any) -> Any:
        if message.request_id == "in":
            raise KeyError("a bug")
        return read_generate(message, *rest)

    monkeypatch.setattr("engine_service.rpc.session.read_generate", fail_to_read)
    with structlog.testing.capture_logs() as lines:
        for name in ("in", "out", "good"):
            await client.send(generate=ask(name, max_tokens=5))
        for name in ("in", "out"):
            with pytest.raises(ServerError, match="the server's log says more"):
                await client.result(name)
        await client.result("good")
        await fixture.until_free()
        while len(fixture.server.active_calls):  # each leaves its line when it is closed
            await asyncio.sleep(0)
    assert [type(line["exc_info"]) for line in lines if "exc_info" in line] == [KeyError] * 2
    ends = {line["request_id"]: line for line in lines if line["event"] == "call"}
    assert {name: line["code"] for name, line in ends.items()} == {
        "in": "INTERNAL",
        "out": "INTERNAL",
        "good": "OK",
    }
    assert ends["good"]["method"] == "/folovllm.v1.EngineService/Generate"
    assert ends["good"]["ms"] >= 0 and ends["good"]["peer"]


async def test_a_dead_engine_fails_every_request(fixture: EngineFixture, client: FrontEnd) -> None:
    fixture.runner.hold()
    for name in "abcd":
        await client.send(generate=ask(name, max_tokens=50))
    await client.send(cancel="d")
    await fixture.until_requests(4)
    while len(fixture.server.active_calls) != 3:
        await asyncio.sleep(0)
    fixture.runner.failure = RuntimeError("the device is gone")
    fixture.runner.release()
    for name in "abc":
        with pytest.raises(UnavailableError):
            await client.result(name)
    await client.send(generate=ask("late"))
    with pytest.raises(UnavailableError):
        await client.result("late")
    assert set(client.failures) == {"a", "b", "c", "late"}
    later = FrontEnd(fixture)
    with pytest.raises(Exception, match="the engine has failed"):
        await later.ended


async def test_many_failures_wait_for_their_reader(
    fixture: EngineFixture, client: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_service.rpc.outbox._MAX_FAILURES", 3)
    for i in range(200):
        await client.send(generate=ask(str(i), top_p=2.0))
    await client.until(lambda: len(client.failures) == 200)
    assert all(len(message.failures) <= 4 for message in client.messages)


async def test_sessions_may_be_cut_off_at_any_moment(fixture: EngineFixture) -> None:
    async def cut_off(number: int) -> None:
        client = FrontEnd(fixture)
        try:
            for i in range(number % 5):
                await client.send(generate=ask(f"{number}.{i}", max_tokens=100))
                await client.send(cancel=f"{number}.{i - 1}")
            for _ in range(number % 7):
                await asyncio.sleep(0.001 * (number % 11))
        finally:
            client.call.cancel()
            await asyncio.gather(client.ended, return_exceptions=True)

    for _ in range(3):
        await asyncio.gather(*(cut_off(number) for number in range(40)))
    await fixture.until_free()
    while len(fixture.server.active_calls):
        await asyncio.sleep(0)
