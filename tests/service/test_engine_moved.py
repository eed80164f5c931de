"""Requests that come from another engine, in a session, with a fake model."""

from collections.abc import AsyncIterator

import pytest
from google.protobuf.duration_pb2 import Duration

from folovllm.errors import FolovError, InvalidRequestError, QueueFullError
from folovllm.v1 import engine_service_pb2
from support.processes.engine_sessions import (
    EngineFixture,
    FrontEnd,
    ask,
    ask_fork,
    front_end,
)

Moved = engine_service_pb2.Moved
DAY = 24 * 3600


@pytest.fixture
async def fixture() -> AsyncIterator[EngineFixture]:
    fixture = EngineFixture(max_num_waiting=2)
    await fixture.start()
    yield fixture
    await fixture.stop()


@pytest.fixture
async def client(fixture: EngineFixture) -> AsyncIterator[FrontEnd]:
    async with front_end(fixture) as client:
        yield client


def moved(seconds: int = 0, nanos: int = 0, is_suspect: bool = False) -> engine_service_pb2.Moved:
    return Moved(age=Duration(seconds=seconds, nanos=nanos), is_suspect=is_suspect)


async def failure_of(client: FrontEnd, name: str) -> FolovError:
    await client.until(lambda: name in client.failures)
    return client.failures[name]


def scheduled(client: FrontEnd) -> list[str]:
    """The names of what has been computed, in order."""
    names: dict[str, None] = {}
    for message in client.messages:
        names |= dict.fromkeys(message.scheduled)
        names |= dict.fromkeys(output.request_id for output in message.outputs)
    return list(names)


async def test_it_is_admitted_to_a_full_queue_and_runs_before_what_came_later(
    fixture: EngineFixture, client: FrontEnd
) -> None:
    fixture.runner.hold()
    await client.send(generate=ask("a", max_tokens=2))
    await fixture.until_held()
    # By its size alone in the step that begins it, as are the next two.
    long = ask("long", max_tokens=2)
    long.prompt_token_ids[:] = [5] * 100
    await client.send(generate=long)
    await client.send(generate=ask("refused", max_tokens=2))
    assert isinstance(await failure_of(client, "refused"), QueueFullError)
    for name, age in (("younger", moved(5)), ("older", moved(6, 5 * 10**8))):
        request = ask(name, max_tokens=2)
        request.prompt_token_ids[:] = [6] * 60
        await client.send(generate=request, moved=age)
    await fixture.until_requests(4)
    assert fixture.engine.num_admissible == 0
    fixture.runner.release()
    for name in ("a", "long", "older", "younger"):
        await client.result(name)
    assert scheduled(client) == ["a", "older", "younger", "long"]
    assert fixture.engine.num_admissible == 2


async def test_suspects_begin_one_after_the_other(fixture: EngineFixture, client: FrontEnd) -> None:
    fixture.runner.hold()
    await client.send(generate=ask("a", max_tokens=9))
    await fixture.until_held()
    for name in "bcd":
        await client.send(generate=ask(name, max_tokens=2), moved=moved(is_suspect=True))
    await fixture.until_requests(4)
    num_before = len(fixture.runner.steps)
    fixture.runner.release()
    for name in "abcd":
        await client.result(name)
    steps = fixture.runner.steps[num_before:]
    firsts = [
        number
        for number, step in enumerate(steps)
        for part in step.scheduled
        if part.num_computed_tokens < 5
    ]
    assert firsts[-3:] == [1, 2, 3]
    assert scheduled(client) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (moved(-1), "moved.age"),
        (moved(0, -1), "moved.age"),
        (moved(0, 10**9), "moved.age"),
        (moved(2**62), "moved.age"),
        (moved(30 * DAY, 1), "moved.age"),
    ],
)
async def test_an_absurd_age_is_refused_by_name(
    client: FrontEnd, wrong: engine_service_pb2.Moved, field: str
) -> None:
    await client.send(generate=ask("a"), moved=wrong)
    error = await failure_of(client, "a")
    assert isinstance(error, InvalidRequestError) and error.field == field


async def test_only_what_is_generated_moves(client: FrontEnd) -> None:
    await client.send(generate=ask("a", max_tokens=2), moved=moved(30 * DAY))
    await client.result("a")
    await client.send(fork=ask_fork("a", "f"), moved=moved())
    error = await failure_of(client, "f")
    assert isinstance(error, InvalidRequestError) and error.field == "moved"


async def test_what_can_never_fit_is_refused_as_ever(client: FrontEnd) -> None:
    await client.send(generate=ask("a", max_tokens=1000), moved=moved(1))
    error = await failure_of(client, "a")
    assert isinstance(error, InvalidRequestError)
    assert error.field == "sampling_params.max_tokens"
