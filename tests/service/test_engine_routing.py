"""Two fake engines behind one EnginePool: choice, live load, moves, loss and return."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from folovllm.errors import (
    FolovError,
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    RequestFailedError,
    RequestLostError,
    UnavailableError,
)
from folovllm.v1 import engine_service_pb2, types_pb2
from support.builders.engine_pools import (
    FINGERPRINT,
    Command,
    num_running,
    pool_of,
    request,
    until_each_ready,
)
from support.fakes.engine import FakeEngine, RunningEngine, Script, engine_process, running
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.engines.stream import EngineStream

BLOCK_SIZE = 16
ENDLESS = Script([[1]], finish=None)
SHORT = Script([[1], [2]])
Load = engine_service_pb2.GetLoadResponse
Events = engine_service_pb2.SessionEvents


def load_of(num_admissible: int = 100, **numbers: int) -> Load:
    """A load of an engine with room."""
    return Load(num_admissible=num_admissible, **numbers)


@dataclass
class Engines:
    pool: EnginePool
    fakes: list[FakeEngine]
    served: list[RunningEngine]

    def ids(self) -> list[list[str]]:
        """Names of the requests that each engine has got, as their callers have given them."""
        return [
            [call.request.request_id.partition("~")[0] for call in fake.calls]
            for fake in self.fakes
        ]

    async def until_ready(self, *ready: bool) -> None:
        await until_each_ready(self.pool, *ready)

    async def until_load(self, load: Load, *outstanding: int) -> None:
        """Reports a load at the first engine and waits until each has so many tokens."""
        self.fakes[0].set_load(load)
        async with asyncio.timeout(20):
            while tuple(e.session.outstanding_tokens for e in self.pool._engines) != outstanding:
                await asyncio.sleep(0)


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    fakes = [FakeEngine([ENDLESS], FINGERPRINT, block_size=BLOCK_SIZE) for _ in range(2)]
    async with (
        running(fakes[0]) as first,
        running(fakes[1]) as second,
        pool_of(first.address, second.address) as pool,
    ):
        engines = Engines(pool, fakes, [first, second])
        await engines.until_ready(True, True)
        yield engines


async def begin(pool: EnginePool, command: Command) -> EngineStream:
    """A stream whose first output was read."""
    stream = pool.generate(command)
    await anext(stream)
    return stream


async def test_equal_prefixes_go_to_one_engine_and_others_to_the_other(engines: Engines) -> None:
    shared, other = [7] * 40 * BLOCK_SIZE, [8] * 4 * BLOCK_SIZE
    await begin(engines.pool, request("s0", *shared))
    await begin(engines.pool, request("o0", *other))
    for i in range(1, 4):
        await begin(engines.pool, request(f"s{i}", *shared, i))
    await begin(engines.pool, request("o1", *other, 9))
    assert engines.ids() == [["s0", "s1", "s2", "s3"], ["o0", "o1"]]


async def test_an_engine_with_too_much_to_do_loses_its_prefixes(engines: Engines) -> None:
    shared = [7] * 4 * BLOCK_SIZE  # worth as much as one running continuation
    for i in range(4):
        await begin(engines.pool, request(f"s{i}", *shared))
    assert engines.ids() == [["s0", "s1"], ["s2", "s3"]]


async def test_what_others_sent_counts_and_ones_own_only_once(engines: Engines) -> None:
    run = await begin(engines.pool, request("mine"))
    await engines.until_load(load_of(num_running=1), 64, 0)
    await engines.until_load(load_of(num_running=2, num_waiting=1, num_queued_tokens=500), 692, 0)
    for i in range(3):
        await begin(engines.pool, request(f"r{i}"))
    assert engines.ids() == [["mine"], ["r0", "r1", "r2"]]
    with run:
        pass
    assert [engine.session.outstanding_tokens for engine in engines.pool._engines] == [628, 192]
    await engines.until_load(load_of(), 0, 192)


@pytest.mark.parametrize(
    "refusal", [QueueFullError("full", retry_after=7), UnavailableError("the server shuts down")]
)
async def test_what_one_engine_refuses_another_takes(engines: Engines, refusal: FolovError) -> None:
    engines.fakes[0].refuse_with = refusal
    run = await begin(engines.pool, request("r"))
    assert engines.ids() == [["r"], ["r"]]
    assert num_running(engines.pool) == [0, 1]
    run.abort([0])  # reaches the engine that it runs on
    assert (await anext(run)).finish_reason == types_pb2.FINISH_REASON_ABORT
    # Both refuse: the second one's word, after one try each.
    engines.fakes[1].refuse_with = QueueFullError("full here too", retry_after=3)
    with pytest.raises(QueueFullError, match="here too") as caught:
        await anext(engines.pool.generate(request("s")))
    assert caught.value.retry_after == 3
    assert engines.ids() == [["r", "s"], ["r", "s"]]


async def test_an_engine_without_room_is_passed_over_while_another_has_some(
    engines: Engines,
) -> None:
    await engines.until_load(load_of(0, num_running=1), 64, 0)
    for i in range(3):
        await begin(engines.pool, request(f"r{i}", *[7] * 4 * BLOCK_SIZE))
    assert engines.ids() == [[], ["r0", "r1", "r2"]]


async def test_a_full_engine_is_not_asked_after_a_refusal_and_the_caller_returns_to_the_first(
    engines: Engines,
) -> None:
    for fake in engines.fakes:
        fake.set_load(load_of(0))
    async with asyncio.timeout(20):
        while any(engine.session.has_room for engine in engines.pool._engines):
            await asyncio.sleep(0)
    for fake, seconds in zip(engines.fakes, (7, 3), strict=True):
        fake.refuse_with = QueueFullError("full", retry_after=seconds)
    with pytest.raises(QueueFullError) as caught:
        await anext(engines.pool.generate(request("r")))
    assert caught.value.retry_after == 7 and engines.ids() == [["r"], []]
    # The other one has less to do now; the turn is with the first.
    engines.fakes[0].set_load(load_of(0, num_running=9))
    async with asyncio.timeout(20):
        while not engines.pool._engines[0].session.outstanding_tokens:
            await asyncio.sleep(0)
    engines.fakes[0].refuse_with = None
    await begin(engines.pool, request("r"))
    with pytest.raises(QueueFullError):
        await anext(engines.pool.generate(request("s")))
    assert engines.ids() == [["r", "r"], ["s"]]


async def test_a_refusal_for_good_is_not_tried_again(engines: Engines) -> None:
    engines.fakes[0].refuse_with = InvalidRequestError("prompt_token_ids", "no")
    with pytest.raises(InvalidRequestError):
        await anext(engines.pool.generate(request("r")))
    assert engines.ids() == [["r"], []]


async def test_a_score_is_tried_again_too(engines: Engines) -> None:
    engines.fakes[0].refuse_with = QueueFullError("full")
    scored = types_pb2.ScoreRequest(request_id="s")
    scored.token_ids.ids.extend([1, 2])
    scored.continuations.add().token_ids.ids.append(3)
    assert (await engines.pool.score(scored, timeout=20)).request_id == "s"
    assert [len(fake.scores) for fake in engines.fakes] == [1, 1]
    engines.fakes[1].refuse_with = UnavailableError("gone")
    with pytest.raises(UnavailableError, match=f"{engines.served[1].address}: gone"):
        await engines.pool.score(scored, timeout=20)
    assert [engine.session.outstanding_tokens for engine in engines.pool._engines] == [0, 0]


async def test_a_score_that_all_refuse_is_told_the_shortest_time(engines: Engines) -> None:
    scored = types_pb2.ScoreRequest(request_id="s")
    scored.token_ids.ids.extend([1, 2])
    scored.continuations.add().token_ids.ids.append(3)
    for fake, seconds in zip(engines.fakes, (7, 3), strict=True):
        fake.refuse_with = QueueFullError("full", retry_after=seconds)
    with pytest.raises(QueueFullError) as caught:
        await engines.pool.score(scored, timeout=20)
    assert caught.value.retry_after == 3
    assert [len(fake.scores) for fake in engines.fakes] == [1, 1]
    engines.fakes[1].refuse_with = None
    await engines.pool.score(scored, timeout=20)  # where that was said
    assert [len(fake.scores) for fake in engines.fakes] == [1, 2]


async def test_a_score_that_is_tried_again_gets_the_time_that_remains(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts: list[float | None] = []

    async def score(
        request: types_pb2.ScoreRequest,
        timeout: float | None,  # noqa: ASYNC109 - as the client's
    ) -> types_pb2.ScoreResponse:
        timeouts.append(timeout)
        if len(timeouts) % 2:
            started = time.monotonic()
            while time.monotonic() < started + 0.01:
                pass
            raise UnavailableError("gone")
        return types_pb2.ScoreResponse()

    for engine in engines.pool._engines:
        monkeypatch.setattr(engine, "score", score)
    await engines.pool.score(types_pb2.ScoreRequest(), timeout=20)
    await engines.pool.score(types_pb2.ScoreRequest(), timeout=None)
    assert timeouts[0] == 20 and timeouts[1] is not None and timeouts[1] <= 19.99
    assert timeouts[2:] == [None, None]


async def test_a_draining_engine_is_left_at_once_and_finishes_what_it_has(engines: Engines) -> None:
    run = await begin(engines.pool, request("old"))
    await engines.served[0].server.set_serving(False)
    await engines.until_ready(False, True)
    await begin(engines.pool, request("new"))
    assert engines.ids() == [["old"], ["new"]]
    run.abort([0])
    assert (await anext(run)).finish_reason == types_pb2.FINISH_REASON_ABORT
    await engines.served[0].server.set_serving(True)
    await engines.until_ready(True, True)
    await begin(engines.pool, request("again"))
    assert engines.ids() == [["old", "again"], ["new"]]
    assert len(engines.fakes[0].sessions) == 1


@pytest.mark.parametrize("error", [None, UnavailableError("the engine has failed")])
async def test_a_session_that_breaks_is_opened_again(
    engines: Engines, error: FolovError | None
) -> None:
    started = await begin(engines.pool, request("started"))
    engines.fakes[1].silent_ids = "silent"
    silent = engines.pool.generate(request("silent"))
    waiting = asyncio.create_task(anext(silent))
    async with asyncio.timeout(20):
        while len(engines.fakes[1].calls) < 1:
            await asyncio.sleep(0)
        for fake in engines.fakes:
            fake.silent_ids = ""
        engines.fakes[1].end_sessions(error)
        assert (await waiting).request_id == "silent"
    assert engines.ids() == [["started", "silent"], ["silent"]]
    engines.fakes[0].end_sessions(error)
    with pytest.raises(UnavailableError, match=f"engine {engines.served[0].address}: "):
        await anext(started)
    await engines.until_ready(True, True)
    await begin(engines.pool, request("later"))


@pytest.mark.parametrize("name", ["", "é" * 129])
async def test_a_name_that_an_engine_would_not_take_is_refused(engines: Engines, name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engines.pool.generate(request(name))
    assert caught.value.field == "request_id"
    assert num_running(engines.pool)[0] == 0


async def test_what_is_too_large_to_send_harms_no_other_request(engines: Engines) -> None:
    run = await begin(engines.pool, request("r"))
    words = [types_pb2.TokenIds(ids=[150_000] * 512)] * 512
    params = types_pb2.SamplingParams(bad_words_token_ids=words)
    fork = types_pb2.ForkRequest(request_id="r", fork_id="f", branches=[params] * 8)
    with pytest.raises(InvalidRequestError, match="over the limit") as caught:
        engines.pool.fork(Command(fork=fork))
    assert caught.value.field == "branches"
    large = request("large", *[2_100_000] * 1_050_000)
    with pytest.raises(InvalidRequestError, match="over the limit") as caught:
        engines.pool.generate(large)
    assert caught.value.field == "sampling_params"
    run.abort([0])
    assert (await anext(run)).finish_reason == types_pb2.FINISH_REASON_ABORT
    largest = request("largest", *[2_100_000] * 1_048_000)
    await begin(engines.pool, largest)


async def test_a_name_may_be_used_again_but_not_twice_at_once(engines: Engines) -> None:
    run = await begin(engines.pool, request("r"))
    await engines.until_load(load_of(), 64, 0)
    engines.fakes[1].set_load(load_of(num_running=9))
    async with asyncio.timeout(20):
        while engines.pool._engines[1].session.outstanding_tokens == 0:
            await asyncio.sleep(0)
    with pytest.raises(InvalidRequestError, match="r is running already") as caught:
        engines.pool.generate(request("r"))
    assert caught.value.field == "request_id"
    with run:
        pass
    # Under another name at the engine, for pieces of the first may still be on their way.
    with engines.pool.generate(request("r")) as run:
        assert (await anext(run)).request_id == "r"
        wire_name = engines.fakes[0].calls[1].request.request_id
        assert wire_name != "r"
        branches = [types_pb2.SamplingParams()]
        branch = types_pb2.ForkRequest(request_id="r", fork_id="f", branches=branches)
        fork = engines.pool.fork(Command(fork=branch))
        async with asyncio.timeout(20):
            while not engines.fakes[0].forks:
                await asyncio.sleep(0)
        assert engines.fakes[0].forks[0].request_id == wire_name
        run.abort([0])
        last = await anext(run)
        assert (last.request_id, last.finish_reason) == ("r", types_pb2.FINISH_REASON_ABORT)
        with fork:
            pass
    with pytest.raises(NotFoundError):
        engines.pool.fork(Command(fork=types_pb2.ForkRequest(request_id="r", fork_id="f")))


async def test_a_killed_engines_requests_go_on_elsewhere_where_they_have_not_started() -> None:
    survivor = FakeEngine([SHORT], FINGERPRINT)
    async with (
        engine_process(FINGERPRINT) as (process, port),
        running(survivor) as served,
        pool_of(f"127.0.0.1:{port}", served.address) as pool,
    ):
        engines = Engines(pool, [survivor], [served])
        await engines.until_ready(True, True)
        started = await begin(pool, request("started"))
        survivor.set_load(load_of(num_running=100))
        async with asyncio.timeout(20):
            while pool._engines[1].session.outstanding_tokens == 0:
                await asyncio.sleep(0)
        silent = [pool.generate(request(f"silent-{i}")) for i in range(20)]
        waiting = [asyncio.create_task(anext(run)) for run in silent]
        await begin(pool, request("also-started"))  # so the engine has the silent ones too
        assert survivor.calls == []
        process.send_signal(signal.SIGKILL)
        async with asyncio.timeout(1):
            with pytest.raises(UnavailableError, match=f"engine 127.0.0.1:{port}: "):
                await anext(started)
        silent.append(pool.generate(request("new")))
        firsts = [await first for first in waiting]
        assert [first.request_id for first in firsts] == [f"silent-{i}" for i in range(20)]
        begun = [list(first.token_ids) for first in firsts] + [[]]
        for run, ids in zip(silent, begun, strict=True):
            assert ids + [i async for piece in run for i in piece.token_ids] == [1, 2]
        assert len(survivor.calls) == 21
        await engines.until_ready(False, True)
        async with engine_process(FINGERPRINT, port):
            await engines.until_ready(True, True)
            assert bytes((await anext(pool.generate(request("back")))).token_ids) == b"hello"


async def test_a_request_that_its_engine_blames_is_not_tried_again(engines: Engines) -> None:
    engines.fakes[0].refuse_with = RequestFailedError("not finite", "r")
    with pytest.raises(RequestFailedError, match="not finite"):
        await anext(engines.pool.generate(request("r")))
    assert engines.ids() == [["r"], []]


@pytest.mark.parametrize("begun", [True, False])
async def test_a_request_is_lost_with_two_engines_if_they_have_begun_it(begun: bool) -> None:
    fakes = [FakeEngine([ENDLESS], FINGERPRINT) for _ in range(3)]
    for fake in fakes:
        fake.answers_heartbeats = True
        fake.silent_ids = "r"
    async with AsyncExitStack() as stack:
        served = [await stack.enter_async_context(running(fake)) for fake in fakes]
        pool = await stack.enter_async_context(pool_of(*(each.address for each in served)))
        await until_each_ready(pool, True, True, True)
        run = pool.generate(request("r"))
        tried: list[FakeEngine] = []
        for _ in range(2):
            async with asyncio.timeout(20):
                while not (new := [each for each in fakes if each.calls and each not in tried]):
                    await asyncio.sleep(0)
            tried += new
            new[0].silent_ids = ""
            name = new[0].calls[0].request.request_id
            new[0].sessions[0].put(Events(scheduled=[name] if begun else []))
            new[0].end_sessions()
        if begun:
            with pytest.raises(RequestLostError, match="second engine"):
                await anext(run)
        (last,) = (each for each in fakes if each not in tried)
        async with asyncio.timeout(20):
            while not begun and not last.calls:
                await asyncio.sleep(0)
        assert len(last.calls) == (not begun)


async def test_only_replicas_of_the_first_engine_are_used(engines: Engines) -> None:
    engines.fakes[1].info.replica_fingerprint = "other weights"
    for changes in ([False, True], [True, False]):
        await engines.served[1].server.set_serving(False)
        await engines.until_ready(True, False)
        await engines.served[1].server.set_serving(True)
        async with asyncio.timeout(20):
            while not engines.pool._engines[1].refused:
                await engines.pool._changed.wait()
        await begin(engines.pool, request(f"r{changes}"))
    state = engines.pool.descriptions()[1]
    assert (state.ready, state.replica_fingerprint) == (False, "other weights")
    assert "is other weights, that of" in state.state
    assert engines.ids()[1] == []
    # Once the other one serves the same weights there is nothing left to protect.
    engines.fakes[0].info.replica_fingerprint = "other weights"
    await engines.served[0].server.set_serving(False)
    await engines.until_ready(False, False)
    with pytest.raises(UnavailableError, match="other weights"):
        engines.pool.generate(request("none"))
    await engines.served[0].server.set_serving(True)
    await engines.until_ready(True, True)


async def test_an_expected_fingerprint_goes_before_the_first_engine() -> None:
    fakes = [FakeEngine([SHORT], FINGERPRINT) for _ in range(2)]
    for fake, fingerprint in zip(fakes, ("first", "expected"), strict=True):
        fake.info.replica_fingerprint = fingerprint
    async with (
        running(fakes[0]) as first,
        running(fakes[1]) as second,
        pool_of(first.address, second.address, replica="expected") as pool,
    ):
        await Engines(pool, fakes, [first, second]).until_ready(False, True)
        await begin(pool, request("r"))
        assert len(fakes[1].calls) == 1 and not fakes[0].sessions
