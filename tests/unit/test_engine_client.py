import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from fake_engine import FakeEngine, Script, engine_process, running

from folovllm.errors import (
    DeadlineError,
    InvalidRequestError,
    ModelMismatchError,
    UnavailableError,
)
from folovllm.v1 import types_pb2
from tokenizer_service.engine_pool import EnginePool

FINGERPRINT = "f" * 8


@asynccontextmanager
async def pool_of(*addresses: str, fingerprint: str = FINGERPRINT) -> AsyncIterator[EnginePool]:
    pool = EnginePool(addresses, fingerprint)
    pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def until(pool: EnginePool, ready: bool) -> None:
    async with asyncio.timeout(20), aclosing(pool.readiness()) as changes:
        async for now in changes:
            if now is ready:
                return


def request(request_id: str = "r") -> types_pb2.Request:
    return types_pb2.Request(request_id=request_id, prompt_token_ids=[1, 2])


async def test_follows_an_engine_from_start_to_end() -> None:
    engine = FakeEngine([Script([[1, 2], [3]])], FINGERPRINT)
    async with running(engine) as served, pool_of(served.address) as pool:
        assert len(pool) == 1
        assert not pool.ready
        await pool.wait_ready(20)
        assert pool.model_info().model_id == "fake"
        messages = [m async for m in pool.pick().generate(request(), timeout=None)]
        assert [list(m.token_ids) for m in messages] == [[1, 2], [3]]
        assert engine.calls[0].time_remaining is None


async def test_health_follows_the_engines_own() -> None:
    engine = FakeEngine([], FINGERPRINT)
    async with running(engine) as served, pool_of(served.address) as pool:
        await pool.wait_ready(20)
        await served.server.set_serving(False)
        await until(pool, False)
        with pytest.raises(UnavailableError, match="no engine is ready: .* it is NOT_SERVING"):
            pool.pick()
        await served.server.set_serving(True)
        await until(pool, True)


async def test_every_watcher_sees_every_change() -> None:
    engine = FakeEngine([], FINGERPRINT)
    async with running(engine) as served, pool_of(served.address) as pool:
        seen: list[list[bool]] = [[], []]

        async def watch(into: list[bool]) -> None:
            async with aclosing(pool.readiness()) as changes:
                async for ready in changes:
                    into.append(ready)
                    if len(into) == 3:
                        return

        watchers = [asyncio.create_task(watch(into)) for into in seen]
        await pool.wait_ready(20)
        await served.server.set_serving(False)
        async with asyncio.timeout(20):
            await asyncio.gather(*watchers)
        assert seen == [[False, True, False]] * 2


async def test_no_engine_there() -> None:
    engine = FakeEngine([], FINGERPRINT)
    async with running(engine) as served:
        address = served.address  # free again when the block ends
    async with pool_of(address) as pool:
        with pytest.raises(UnavailableError, match=f"no engine is ready: {address}: not connected"):
            await pool.wait_ready(0)
        with pytest.raises(UnavailableError):
            pool.model_info()


@pytest.mark.parametrize(("engines", "ours"), [("other", FINGERPRINT), ("", FINGERPRINT), ("", "")])
async def test_another_tokenizer_is_refused(engines: str, ours: str) -> None:
    async with (
        running(FakeEngine([], engines)) as served,
        pool_of(served.address, fingerprint=ours) as pool,
    ):
        with pytest.raises(ModelMismatchError) as caught:
            await pool.wait_ready(20)
        assert engines in str(caught.value) and ours in str(caught.value)
        assert not pool.ready


async def test_an_engine_that_fits_is_taken_before_one_that_does_not() -> None:
    fits, other = FakeEngine([Script([[1]])], FINGERPRINT), FakeEngine([], "other")
    async with (
        running(other) as first,
        running(fits) as second,
        pool_of(first.address, second.address) as pool,
    ):
        await pool.wait_ready(20)
        assert pool.pick().address == second.address


async def test_the_least_loaded_engine_is_picked_and_of_equals_the_first() -> None:
    engines = [FakeEngine([Script([[1]], finish=None)], FINGERPRINT) for _ in range(2)]
    async with (
        running(engines[0]) as first,
        running(engines[1]) as second,
        pool_of(first.address, second.address) as pool,
    ):
        await pool.wait_ready(20)
        async with asyncio.timeout(20):
            while not all(engine.ready for engine in pool._engines):
                await pool._changed.wait()
        streams = []
        for i in range(4):
            stream = pool.pick().generate(request(f"r{i}"), timeout=None)
            streams.append(stream)
            await anext(stream)
        assert [c.request.request_id for c in engines[0].calls] == ["r0", "r2"]
        assert [c.request.request_id for c in engines[1].calls] == ["r1", "r3"]
        await streams[3].aclose()
        assert pool.pick().address == second.address
        for stream in streams:
            await stream.aclose()
        assert pool.pick().num_outstanding == 0


async def test_closing_a_stream_cancels_it_at_the_engine() -> None:
    engine = FakeEngine([Script([[1]], finish=None)], FINGERPRINT)
    async with running(engine) as served, pool_of(served.address) as pool:
        await pool.wait_ready(20)
        async with aclosing(pool.pick().generate(request(), timeout=None)) as stream:
            await anext(stream)
        async with asyncio.timeout(5):
            await engine.calls[0].ended.wait()
        assert not engine.calls[0].completed


async def test_abort_reaches_the_engine() -> None:
    engine = FakeEngine([Script([[1]], finish=None)], FINGERPRINT)
    async with running(engine) as served, pool_of(served.address) as pool:
        await pool.wait_ready(20)
        client = pool.pick()
        async with aclosing(client.generate(request(), timeout=5)) as stream:
            await anext(stream)
            assert await client.abort("r", [0])
            last = await anext(stream)
        assert last.finish_reason == types_pb2.FINISH_REASON_ABORT
        assert not await client.abort("unknown", [0])


async def test_the_deadline_travels_and_expires() -> None:
    engine = FakeEngine([Script([[1]], finish=None)], FINGERPRINT)
    async with running(engine) as served, pool_of(served.address) as pool:
        await pool.wait_ready(20)
        with pytest.raises(DeadlineError):
            async for _ in pool.pick().generate(request(), timeout=0.3):
                pass
        remaining = engine.calls[0].time_remaining
        assert remaining is not None and 0 < remaining < 0.4


async def test_what_the_engine_says_about_a_field_comes_through() -> None:
    engine = FakeEngine([], FINGERPRINT)
    engine.refuse_with = InvalidRequestError("prompt_token_ids", "too long")
    async with running(engine) as served, pool_of(served.address) as pool:
        await pool.wait_ready(20)
        with pytest.raises(InvalidRequestError, match="too long") as caught:
            async for _ in pool.pick().generate(request(), timeout=None):
                pass
        assert caught.value.field == "prompt_token_ids"


async def test_a_killed_engine_is_noticed_and_found_again() -> None:
    async with engine_process(FINGERPRINT) as (process, port), pool_of(f"127.0.0.1:{port}") as pool:
        await pool.wait_ready(20)
        client = pool.pick()
        stream = client.generate(request(), timeout=None)
        await anext(stream)
        with pytest.raises(UnavailableError):
            process.send_signal(signal.SIGKILL)
            async with asyncio.timeout(1):
                await anext(stream)
        async with asyncio.timeout(1):
            await until(pool, False)
        with pytest.raises(UnavailableError):
            async for _ in client.generate(request(), timeout=None):
                pass
        with pytest.raises(UnavailableError):
            await client.abort("r", [0])
        async with engine_process(FINGERPRINT, port):
            await pool.wait_ready(20)
            async with aclosing(pool.pick().generate(request("again"), timeout=None)) as stream:
                assert (await anext(stream)).request_id == "again"


async def test_close_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with running(FakeEngine([], FINGERPRINT)) as served, pool_of(served.address) as pool:
        await pool.wait_ready(20)
    left = {t for t in asyncio.all_tasks() - before if "follow" in t.get_name()}
    assert left == set()
