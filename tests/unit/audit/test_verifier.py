"""Requests are computed again by another engine, in idle time, and differences are counted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from structlog.testing import capture_logs

from folovllm.v1 import engine_service_pb2
from support.builders.engine_pools import FINGERPRINT, request, until_each_ready
from support.builders.finished import ended, finished
from support.fakes.engine import FakeEngine, Script, running
from tokenizer_service.audit import verifier
from tokenizer_service.audit.audit import Audit
from tokenizer_service.audit.choice import is_chosen
from tokenizer_service.audit.finished import Finished
from tokenizer_service.audit.idleness import IdleTime, is_idle
from tokenizer_service.audit.rerun import LOWEST_PRIORITY, Agreement, Mismatch, rerun_command
from tokenizer_service.audit.tally import Tally, Verified
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool

Load = engine_service_pb2.GetLoadResponse
IDLE, BUSY = Load(num_admissible=100), Load(num_admissible=100, num_waiting=1)


class Served:
    """Two engines that answer alike, and a pool whose requests are all verified."""

    def __init__(self) -> None:
        self.engines = [FakeEngine([Script([[5], [6, 7]])], FINGERPRINT) for _ in range(2)]
        for engine in self.engines:
            engine.info.numerics_fingerprint = "n"

    async def __aenter__(self) -> "Served":
        self._stack = AsyncExitStack()
        served = [await self._stack.enter_async_context(running(each)) for each in self.engines]
        self.addresses = [each.address for each in served]
        self.tally = Tally(self.addresses)
        self.audit = Audit(None, 1.0, self.tally)
        fingerprints = Fingerprints(FINGERPRINT, "")
        self.pool = EnginePool(self.addresses, fingerprints, on_finished=self.audit.take)
        self.pool.start()
        self.audit.start(self.pool)
        await until_each_ready(self.pool, True, True)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.audit.close()
        await self.pool.close()
        await self._stack.aclose()

    async def ask(self, name: str = "r") -> None:
        with self.pool.generate(request(name)) as stream:
            async for _ in stream:
                pass

    async def until_verified(self, count: int = 1) -> None:
        async with asyncio.timeout(20):
            while self.tally.of(self.addresses[0]).num_verified < count:
                await asyncio.sleep(0)

    @property
    def names(self) -> list[list[str]]:
        """Of all requests that each engine got."""
        return [[call.request.request_id for call in each.calls] for each in self.engines]

    async def until_asked(self, number: int) -> str:
        """The name of what an engine is asked to verify."""
        async with asyncio.timeout(20):
            while not self.names[number]:
                await asyncio.sleep(0)
        return self.names[number][0]

    @property
    def counts(self) -> list[Verified]:
        return [self.tally.of(address) for address in self.addresses]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with Served() as entered:
        yield entered


async def test_engines_that_agree_are_counted(served: Served) -> None:
    await served.ask()
    await served.until_verified()
    assert served.counts == [Verified(1, 0)] * 2
    (first,), (again,) = served.names
    assert first == "r" and again.startswith("verify-")
    sent = served.engines[1].calls[0].request
    assert (sent.priority, sent.sampling_params.max_tokens) == (LOWEST_PRIORITY, 3)
    assert list(sent.prompt_token_ids) == [1, 2]


async def test_an_engine_that_computes_another_token_is_found(served: Served) -> None:
    served.engines[1].scripts = [Script([[5], [6], [8]])]
    with capture_logs() as logs:
        await served.ask()
        await served.until_verified()
    assert served.counts == [Verified(1, 1)] * 2
    (line,) = [each for each in logs if each["event"] == "engines differ"]
    assert (line["request_id"], line["index"], line["position"]) == ("r", 0, 2)
    assert [line["engine"], line["verified_by"]] == served.addresses
    assert not {"token_ids", "recorded_id", "found_id", "text"} & line.keys()


async def test_what_waits_for_an_idle_engine_is_verified_then(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []

    def look(load: Load) -> bool:
        looks.append(is_idle(load))
        return looks[-1]

    monkeypatch.setattr(verifier, "is_idle", look)
    served.engines[1].set_load(BUSY)
    async with asyncio.timeout(20):
        while not served.pool.engines[1].session.load.num_waiting:
            await asyncio.sleep(0)
    await served.ask("first")
    await served.ask("second")
    async with asyncio.timeout(20):
        while len(looks) < 4:
            await asyncio.sleep(0)
    assert served.counts == [Verified()] * 2
    served.engines[1].set_load(IDLE)
    await served.until_verified(2)
    assert [len(each) for each in served.names] == [2, 2]


@pytest.mark.parametrize(
    "event",
    [
        engine_service_pb2.SessionEvents(load=Load(num_admissible=100, num_running=2)),
        engine_service_pb2.SessionEvents(drains=True),
    ],
    ids=["load", "drain"],
)
async def test_it_gives_way_as_soon_as_load_comes_or_the_engine_drains(
    served: Served, event: engine_service_pb2.SessionEvents
) -> None:
    served.engines[1].scripts = [Script([[5]], finish=None)]
    await served.ask()
    name = await served.until_asked(1)
    served.engines[1].sessions[0].put(event)
    async with asyncio.timeout(20):
        while name not in served.engines[1].sessions[0].cancelled:
            await asyncio.sleep(0)
    assert served.counts == [Verified()] * 2


async def test_a_drain_ends_it_at_once(served: Served) -> None:
    served.engines[1].scripts = [Script([[5]], finish=None)]
    await served.ask()
    name = await served.until_asked(1)
    await served.audit.stop_verifying()
    async with asyncio.timeout(20):
        while name not in served.engines[1].sessions[0].cancelled:
            await asyncio.sleep(0)


@pytest.mark.parametrize("numerics", ["", "other"])
async def test_engines_of_other_numerics_are_not_asked(served: Served, numerics: str) -> None:
    served.pool.engines[1].model_info.numerics_fingerprint = numerics
    await served.ask("first")
    served.pool.engines[1].model_info.numerics_fingerprint = "n"
    await served.ask("second")
    await served.until_verified()
    assert len(served.names[1]) == 1 and served.counts == [Verified(1, 0)] * 2


@pytest.mark.parametrize(
    ("load", "idle", "over"),
    [
        (Load(num_admissible=1), True, False),
        (Load(num_admissible=1, num_running=3), True, False),
        (Load(num_admissible=1, num_running=2, num_waiting=1), False, False),
        (Load(num_admissible=1, num_running=2, num_waiting=2), False, True),
        (Load(num_admissible=1, kv_cache_usage=0.6), False, True),
        (Load(num_admissible=0), False, False),
    ],
)
def test_what_is_idle_and_when_that_is_over(load: Load, idle: bool, over: bool) -> None:
    assert is_idle(load) is idle
    begun = IdleTime.begin(Load(num_running=1), num_own=2)
    assert begun.is_over(load) is over


def mismatch(whole: Finished, *outputs: Any) -> Mismatch | None:
    agreement = Agreement(whole)
    found = (agreement.check(index, output) for index, output in enumerate(outputs))
    return next((each for each in found if each is not None), None)


def test_the_bits_of_log_probabilities_are_compared() -> None:
    one, other = ended(7, 8, logprobs=(-0.5, -1.0)), ended(7, 8, logprobs=(-0.5, -1.0000001))
    assert mismatch(finished(one), one) is None
    assert mismatch(finished(one), other) == Mismatch(0, 1, is_logprob=True)
    assert mismatch(finished(ended(7, 8)), other) is None


def test_each_token_is_compared_once_and_the_end_too() -> None:
    agreement, running = Agreement(finished()), ended(7, 8)
    running.final = None
    assert agreement.check(0, running) is None
    running.token_ids.append(1)
    assert agreement.check(0, running) == Mismatch(0, 2, is_logprob=False)
    assert mismatch(finished(ended(7), ended(8, 9)), ended(7), ended(8)) == Mismatch(1, 1, False)


def test_a_branch_runs_again_as_what_it_was() -> None:
    whole = finished(parent_token_ids=[3, 4], branch_index=5)
    sent = rerun_command(whole, "name").generate
    assert list(sent.prompt_token_ids) == [1, 2, 3, 4]
    assert sent.continued.num_parent_output_tokens == 2
    assert [output.index for output in sent.continued.outputs] == [0]
    assert (sent.cache_salt, sent.request_id) == ("s", "name")


def test_the_share_is_kept_and_is_the_same_everywhere() -> None:
    names = [f"request {number}" for number in range(2000)]
    chosen = [name for name in names if is_chosen(name, 0.1)]
    assert 150 < len(chosen) < 250
    assert chosen == [name for name in names if is_chosen(name, 0.1)]
    assert not any(is_chosen(name, 0.0) for name in names)
    assert all(is_chosen(name, 1.0) for name in names)
    assert {*chosen} < {name for name in names if is_chosen(name, 0.2)}
