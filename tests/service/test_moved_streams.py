"""Which streams move, when and where: fake engines behind one pool or a whole tokenizer service."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from folovllm.errors import (
    FolovError,
    QueueFullError,
    RequestFailedError,
    RequestLostError,
    UnavailableError,
)
from folovllm.liveness import DEFAULT_LIVENESS, LivenessConfig
from folovllm.outputs import FinishReason
from folovllm.v1 import engine_service_pb2, types_pb2
from support.builders.engine_pools import FINGERPRINT, Command, pool_of, request, until_each_ready
from support.fakes.engine import Call, FakeEngine, Script, running
from tokenizer_service.engines.migration.numerics import Migrate
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.engines.stream import EngineStream

Events = engine_service_pb2.SessionEvents
IDS = [1, 2, 3, 4, 5]
SILENT = LivenessConfig(heartbeat=0.05, silent=0.2, lost=60)
# In which a peer that is silent is soon lost too.
LOST = LivenessConfig(heartbeat=0.05, silent=0.2, lost=0.6)


class Engines:
    """Fake engines, of which only the last ever finishes: the others stop after two tokens."""

    def __init__(self, pool: EnginePool, fakes: list[FakeEngine]) -> None:
        self.pool = pool
        self.fakes = fakes

    async def begin(self, name: str = "r") -> tuple[EngineStream, FakeEngine]:
        """A stream of which two tokens were read, and its engine."""
        stream = self.pool.generate(request(name))
        ids: list[int] = []
        while len(ids) < 2:
            ids += (await anext(stream)).token_ids
        assert ids == IDS[:2]
        return stream, self.at(name)[-1][0]

    def at(self, name: str) -> list[tuple[FakeEngine, Call]]:
        """The calls of a request, at whichever engines."""
        return [
            (fake, call)
            for fake in self.fakes
            for call in fake.calls
            if call.request.request_id.partition("~")[0] == name
        ]

    def finish_elsewhere(self, fake: FakeEngine) -> None:
        """Lets all engines but one finish what they get from now on."""
        for other in self.fakes:
            if other is not fake:
                other.scripts = [Script([[each] for each in IDS], FinishReason.LENGTH)]


Start = Callable[..., Awaitable[Engines]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start(
            *numerics: str,
            migrate: Migrate = Migrate.EXACT,
            liveness: LivenessConfig = DEFAULT_LIVENESS,
        ) -> Engines:
            fakes = []
            for each in numerics:
                fake = FakeEngine([Script([[1], [2]], finish=None)], FINGERPRINT)
                fake.info.numerics_fingerprint = each
                fake.answers_heartbeats = True
                fakes.append(fake)
            served = [await stack.enter_async_context(running(fake)) for fake in fakes]
            addresses = [each.address for each in served]
            pool = await stack.enter_async_context(
                pool_of(*addresses, liveness=liveness, migrate=migrate)
            )
            await until_each_ready(pool, *(True for _ in fakes))
            return Engines(pool, fakes)

        yield start


async def rest(stream: EngineStream) -> tuple[list[int], types_pb2.CompletionOutput]:
    """The ids that are left, and the last message."""
    outputs = [output async for output in stream]
    return [i for output in outputs for i in output.token_ids], outputs[-1]


async def test_a_stream_goes_on_only_at_an_engine_like_its_own(start: Start) -> None:
    engines = await start("x", "x", "y")
    engines.fakes[2].set_load(engine_service_pb2.GetLoadResponse(num_admissible=100))
    stream, first = await engines.begin()
    assert first is engines.fakes[0]
    engines.finish_elsewhere(first)
    first.end_sessions()
    ids, last = await rest(stream)
    assert ids == IDS[2:] and (last.exact, last.num_moves) == (True, 1)
    second, moved = engines.at("r")[1]
    assert second is engines.fakes[1]
    assert [*moved.request.continued.outputs[0].token_ids] == IDS[:2]
    assert moved.request.sampling_params.HasField("max_tokens")  # as it was resolved


@pytest.mark.parametrize("numerics", ["y", ""])
async def test_without_a_like_engine_a_stream_ends(start: Start, numerics: str) -> None:
    engines = await start(numerics and "x", numerics)
    stream, first = await engines.begin()
    first.end_sessions()
    with pytest.raises(UnavailableError, match="can exactly go on with it"):
        await rest(stream)


async def test_what_was_not_read_begins_again_anywhere(start: Start) -> None:
    engines = await start("x", "y", migrate=Migrate.NEVER)
    stream = engines.pool.generate(request())
    async with asyncio.timeout(20):
        while len(stream.progress[0].token_ids) < 2:
            await asyncio.sleep(0)
    engines.finish_elsewhere(engines.fakes[0])
    engines.fakes[0].end_sessions()
    async with asyncio.timeout(20):
        while len(engines.at("r")) < 2:
            await asyncio.sleep(0)
    ids, last = await rest(stream)
    assert ids == IDS and (last.exact, last.num_moves) == (True, 1)
    assert not engines.at("r")[1][1].request.HasField("continued")


async def test_any_engine_goes_on_if_that_is_asked_for_and_says_so(start: Start) -> None:
    engines = await start("x", "y", migrate=Migrate.ANY)
    stream, first = await engines.begin()
    engines.finish_elsewhere(first)
    first.end_sessions()
    ids, last = await rest(stream)
    assert ids == IDS[2:] and (last.exact, last.num_moves) == (False, 1)


async def test_nothing_moves_with_output_if_that_is_asked_for(start: Start) -> None:
    engines = await start("x", "x", migrate=Migrate.NEVER)
    stream, first = await engines.begin()
    first.end_sessions()
    with pytest.raises(UnavailableError, match="may go on with it"):
        await rest(stream)


async def test_what_is_resumed_goes_to_an_engine_like_that_of_before(start: Start) -> None:
    engines = await start("x", "y")
    engines.finish_elsewhere(engines.fakes[0])
    command = request()
    command.generate.continued.outputs.add(index=0, token_ids=IDS[:3])
    ids, last = await rest(engines.pool.generate(command, "y"))
    assert ids == IDS[3:] and last.exact
    with pytest.raises(UnavailableError, match="numerics fingerprint z"):
        engines.pool.generate(command, "z")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RequestFailedError("NaN", "r"), RequestFailedError),
        (UnavailableError("its time is over"), None),
    ],
)
async def test_what_an_engine_blames_stays(
    start: Start, error: FolovError, expected: type[FolovError] | None
) -> None:
    engines = await start("x", "x")
    stream, first = await engines.begin()
    engines.finish_elsewhere(first)
    first.fail_requests(error)
    if expected is None:
        assert (await rest(stream))[0] == IDS[2:]
        assert not engines.at("r")[1][0].moves[-1].is_suspect
    else:
        with pytest.raises(expected):
            await rest(stream)
        assert len(engines.at("r")) == 1


async def test_what_was_lost_is_a_suspect_until_a_token_comes(start: Start) -> None:
    engines = await start("x", "x", "x")
    stream, first = await engines.begin()
    first.end_sessions()
    async with asyncio.timeout(20):
        while len(engines.at("r")) < 2:
            await asyncio.sleep(0)
    second = next(fake for fake, _ in engines.at("r") if fake is not first)
    (moved,) = second.moves
    assert moved.is_suspect and moved.age.ToNanoseconds() > 0
    # It has only begun, and no token has come.
    name = engines.at("r")[1][1].request.request_id
    second.sessions[0].put(Events(scheduled=[name]))
    second.end_sessions()
    with pytest.raises(RequestLostError, match="second engine"):
        await rest(stream)
    assert len(engines.at("r")) == 2


async def test_a_token_clears_a_suspect(start: Start) -> None:
    engines = await start("x", "x")
    stream, _ = await engines.begin()
    for number in range(2, 5):
        for fake in engines.fakes:
            fake.scripts = [Script([[each] for each in IDS[: number + 1]], finish=None)]
        await until_each_ready(engines.pool, True, True)
        (home,) = (i for i, each in enumerate(engines.pool.engines) if each.session.parts)
        engines.fakes[home].end_sessions()
        assert [*(await anext(stream)).token_ids] == [IDS[number]]
    stream.abort([0])
    assert (await rest(stream))[1].num_moves == 3


async def test_a_moved_stream_is_not_told_that_an_engine_is_full(start: Start) -> None:
    engines = await start("x", "x")
    stream, first = await engines.begin()
    for other in engines.fakes:
        other.refuse_with = QueueFullError("full")
    first.end_sessions()
    with pytest.raises(UnavailableError, match="full"):
        await rest(stream)


async def test_a_silent_engine_loses_its_streams_and_is_not_heard_again(start: Start) -> None:
    engines = await start("x", "x", liveness=SILENT)
    stream, first = await engines.begin()
    engines.finish_elsewhere(first)
    (session,) = first.sessions
    first.speaks.clear()
    session.put(Events(outputs=[types_pb2.CompletionOutput(request_id="r", token_ids=[99])]))
    ids, last = await rest(stream)
    assert ids == IDS[2:] and last.num_moves == 1
    async with asyncio.timeout(20):
        while session.cancelled != ["r"]:
            await asyncio.sleep(0)
    first.speaks.set()
    await until_each_ready(engines.pool, True, True)
    assert first.sessions == [session]


async def test_while_half_of_the_engines_are_silent_nothing_moves(start: Start) -> None:
    engines = await start("x", "x", "x", "x", liveness=LOST)
    streams = [await engines.begin(f"r{number}") for number in range(4)]
    (one, first), (other, second) = streams[:2]
    engines.finish_elsewhere(first)
    second.scripts = engines.fakes[0].scripts = [Script([[each] for each in IDS])]
    # One that is cut off later than the other by less than a heartbeat counts too.
    first.speaks.clear()
    session = engines.pool.engines[engines.fakes.index(first)].session
    async with asyncio.timeout(20):
        while session.was_heard_since(asyncio.get_running_loop().time() - LOST.silent / 2):
            await asyncio.sleep(0)
    second.speaks.clear()
    await until_each_ready(engines.pool, *(fake not in (first, second) for fake in engines.fakes))
    assert [len(engines.at(f"r{number}")) for number in range(2)] == [1, 1]
    # Until they are given up.
    for stream in (one, other):
        assert (await rest(stream))[0] == IDS[2:]


async def test_a_draining_engine_hands_over_what_another_can_go_on_with(start: Start) -> None:
    engines = await start("x", "y", "x")
    stream, first = await engines.begin()
    lonely, second = await engines.begin("lonely")
    assert first is engines.fakes[0] and second is engines.fakes[1]
    engines.finish_elsewhere(first)
    for fake in (first, second):
        fake.sessions[0].put(Events(drains=True))
    await until_each_ready(engines.pool, False, False, True)
    ids, last = await rest(stream)
    assert ids == IDS[2:] and (last.exact, last.num_moves) == (True, 1)
    async with asyncio.timeout(20):
        while first.sessions[0].cancelled != ["r"]:
            await asyncio.sleep(0)
    (moved,) = engines.fakes[2].moves
    assert not moved.is_suspect
    # The other one has only that engine.
    assert second.sessions[0].cancelled == [] and len(engines.at("lonely")) == 1
    lonely.abort([0])
    assert (await rest(lonely))[1].num_moves == 0


async def test_what_runs_at_one_engine_only_ends_with_it(start: Start) -> None:
    engines = await start("x", "x")
    stream = engines.pool.generate_at(request(), engines.pool.engines[1].address)
    await anext(stream)
    engines.fakes[1].sessions[0].put(Events(drains=True))
    with pytest.raises(UnavailableError, match="it drains"):
        await rest(stream)
    with pytest.raises(UnavailableError, match="is not ready"):
        engines.pool.generate_at(request(), engines.pool.engines[1].address)


async def test_the_end_of_a_stream_is_told_once_it_is_complete() -> None:
    ended: list[EngineStream] = []
    fake = FakeEngine([Script([[1], [2]])], FINGERPRINT)
    async with running(fake) as served, pool_of(served.address, on_finished=ended.append) as pool:
        await until_each_ready(pool, True)
        with pool.generate(request("left")):
            pass
        with pool.generate(request("r")) as stream:
            assert pool.find("r") is stream
            assert (await rest(stream))[0] == [1, 2]
        assert ended == [stream] and pool.find("r") is None
        assert [*stream.progress[0].token_ids] == [1, 2]
        assert stream.addresses == [served.address]
        fake.scripts = [Script([[1], [2]], finish=None)]
        stream = pool.generate(request("r"))
        stream.end(UnavailableError("replaced"))
        pool.generate(Command(generate=request("r").generate))
        with pytest.raises(UnavailableError, match="replaced"):
            await anext(stream)
