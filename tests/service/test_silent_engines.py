"""Engines that are there and say nothing, as a front end sees them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from folovllm.errors import NotFoundError, UnavailableError
from folovllm.liveness import LivenessConfig
from folovllm.v1 import types_pb2
from support.builders.engine_pools import (
    FINGERPRINT,
    Command,
    num_running,
    pool_of,
    request,
    until_each_ready,
)
from support.fakes.engine import FakeEngine, Script, running
from tokenizer_service.engines.heartbeats import Heartbeats
from tokenizer_service.engines.pool import EnginePool

LIVENESS = LivenessConfig(heartbeat=0.05, silent=0.25, lost=0.6)
# In which no session ends while a test runs.
PATIENT = LivenessConfig(heartbeat=0.05, silent=0.25, lost=60)


@dataclass
class Engines:
    pool: EnginePool
    fakes: list[FakeEngine]

    def ids(self) -> list[list[str]]:
        """Names of the requests that each engine has got, as their callers have given them."""
        return [
            [call.request.request_id.partition("~")[0] for call in fake.calls]
            for fake in self.fakes
        ]

    async def until_calls(self, number: int) -> None:
        """Returns when the engines have got so many requests."""
        async with asyncio.timeout(20):
            while sum(map(len, self.ids())) < number:
                await asyncio.sleep(0)


@asynccontextmanager
async def two_engines(liveness: LivenessConfig) -> AsyncIterator[Engines]:
    fakes = [FakeEngine([Script([[1]], finish=None)], FINGERPRINT) for _ in range(2)]
    for fake in fakes:
        fake.answers_heartbeats = True
    async with (
        running(fakes[0]) as first,
        running(fakes[1]) as second,
        pool_of(first.address, second.address, liveness=liveness) as pool,
    ):
        await until_each_ready(pool, True, True)
        yield Engines(pool, fakes)


async def test_a_silent_engine_gets_nothing_new_until_it_speaks() -> None:
    async with two_engines(PATIENT) as engines:
        pool, fake = engines.pool, engines.fakes[0]
        parent = pool.generate(request("parent"))
        await anext(parent)
        fake.speaks.clear()
        await until_each_ready(pool, False, True)
        await anext(pool.generate(request("new")))
        assert engines.ids() == [["parent"], ["new"]]
        # A branch goes on elsewhere with what is known of the parent.
        branches = [types_pb2.SamplingParams(seed=3)]
        fork = types_pb2.ForkRequest(request_id="parent", fork_id="f", branches=branches)
        with pool.fork(Command(fork=fork)) as branch:
            await anext(branch)
        sent = engines.fakes[1].calls[1].request
        assert sent.prompt_token_ids == [1, 2, 1]
        assert sent.continued.num_parent_output_tokens == 1
        fake.speaks.set()
        await until_each_ready(pool, True, True)
        # Nothing of what ran has been lost.
        assert num_running(pool) == [1, 1] and len(fake.sessions) == 1
        parent.abort([0])
        assert (await anext(parent)).finish_reason == types_pb2.FINISH_REASON_ABORT


async def test_without_an_engine_that_speaks_requests_are_refused_at_once() -> None:
    async with two_engines(PATIENT) as engines:
        for fake in engines.fakes:
            fake.speaks.clear()
        await until_each_ready(engines.pool, False, False)
        with pytest.raises(UnavailableError, match="no engine is ready: .*: it is silent; .*: it"):
            engines.pool.generate(request("new"))
        assert [each.state for each in engines.pool.descriptions()] == ["it is silent"] * 2


async def test_the_streams_of_an_engine_that_stays_silent_end() -> None:
    async with two_engines(LIVENESS) as engines:
        pool, fake = engines.pool, engines.fakes[0]
        prompt = [7] * 200  # which keeps both together
        started = pool.generate(request("started", *prompt))
        await anext(started)
        fake.speaks.clear()
        waiting = pool.generate(request("waiting", *prompt))
        began = time.monotonic()
        await engines.until_calls(2)
        with pytest.raises(UnavailableError, match=r"it has said nothing for 0\.6 s"):
            await anext(started)
        assert 0.5 < time.monotonic() - began < 2
        assert (await anext(waiting)).request_id == "waiting"
        assert engines.ids() == [["started", "waiting"], ["waiting"]]
        await until_each_ready(pool, False, True)
        fake.speaks.set()
        await until_each_ready(pool, True, True)
        with pytest.raises(NotFoundError):
            pool.fork(Command(fork=types_pb2.ForkRequest(request_id="started", fork_id="f")))


async def test_a_score_does_not_wait_for_an_engine_that_is_lost() -> None:
    async with two_engines(LIVENESS) as engines:
        scored = types_pb2.ScoreRequest(request_id="s")
        scored.token_ids.ids.extend([1, 2])
        scored.continuations.add().token_ids.ids.append(3)
        engines.fakes[0].speaks.clear()
        response = await engines.pool.score(scored, timeout=20)
        assert response.request_id == "s"
        assert [len(fake.scores) for fake in engines.fakes] == [1, 1]


async def test_a_front_end_that_stood_still_blames_no_one() -> None:
    liveness = LivenessConfig(heartbeat=0.05, silent=0.5, lost=0.8)
    async with two_engines(liveness) as engines:
        sessions = [list(fake.sessions) for fake in engines.fakes]
        changes = engines.pool._changed
        time.sleep(1.5 * liveness.lost)  # noqa: ASYNC251 - nothing runs in this loop meanwhile
        for fake, (session,) in zip(engines.fakes, sessions, strict=True):
            before = session.heartbeats
            async with asyncio.timeout(20):
                while session.heartbeats < before + 3:  # each is sent after an answer
                    await asyncio.sleep(0)
            assert fake.sessions == [session]
        assert engines.pool._changed is changes


async def test_an_engine_that_knows_no_heartbeats_is_sent_none() -> None:
    fake = FakeEngine([Script([[1]], finish=None)], FINGERPRINT)
    async with (
        running(fake) as served,
        pool_of(served.address, liveness=LIVENESS) as pool,
    ):
        await until_each_ready(pool, True)
        await anext(pool.generate(request("r")))
        assert pool._engines[0].session._heartbeats is None
        assert fake.sessions[0].heartbeats == 0


async def test_an_engine_that_speaks_by_itself_is_hardly_asked() -> None:
    sent = 0

    def send() -> None:
        nonlocal sent
        sent += 1

    liveness = LivenessConfig(heartbeat=0.02, silent=60, lost=120)
    heartbeats = Heartbeats(liveness, send, lambda: None)
    asking = asyncio.ensure_future(heartbeats.until_lost())
    began = time.monotonic()
    while time.monotonic() < began + 0.3:
        heartbeats.heard()
        await asyncio.sleep(0.001)
    while_speaking = sent
    # To know that this service lives, it has to hear from it all the same.
    assert 1 < while_speaking <= 1 + 0.3 / (4 * liveness.heartbeat) + 1
    async with asyncio.timeout(20):
        while sent < 3 * while_speaking:
            await asyncio.sleep(0)
    asking.cancel()
