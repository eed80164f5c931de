import asyncio
import signal
from contextlib import aclosing

import pytest

from folovllm.errors import (
    InvalidRequestError,
    ModelMismatchError,
    UnavailableError,
)
from folovllm.v1 import types_pb2
from support.builders.engine_pools import FINGERPRINT, num_running, pool_of, request, until_ready
from support.fakes.engine import FakeEngine, Script, engine_process, running
from tokenizer_service.engines.stream import EngineStream


async def test_follows_an_engine_from_start_to_end() -> None:
    engine = FakeEngine([Script([[1, 2], [3]])], FINGERPRINT)
    async with running(engine) as served, pool_of(served.address) as pool:
        assert not pool.ready
        await until_ready(pool)
        assert pool.model_info().model_id == "fake"
        with pool.generate(request()) as run:
            ids = [token_id async for message in run for token_id in message.token_ids]
        assert ids == [1, 2, 3]


async def test_health_follows_the_engines_own() -> None:
    engine = FakeEngine([], FINGERPRINT)
    async with running(engine) as served, pool_of(served.address) as pool:
        await until_ready(pool)
        await served.server.set_serving(False)
        await until_ready(pool, False)
        with pytest.raises(UnavailableError, match="no engine is ready: .* it is NOT_SERVING"):
            pool.generate(request())
        await served.server.set_serving(True)
        await until_ready(pool)


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
        await until_ready(pool)
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
            pool.model_info()


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (("other", ""), (FINGERPRINT, ""), f"its tokenizer's .* other, .* {FINGERPRINT}$"),
        (("", ""), (FINGERPRINT, ""), f"its tokenizer's .* missing, .* {FINGERPRINT}$"),
        (("", ""), ("", ""), "its tokenizer's .* missing, .* missing$"),
        ((FINGERPRINT, "old"), (FINGERPRINT, "new"), "its chat template's .* old, .* new$"),
        ((FINGERPRINT, ""), (FINGERPRINT, "new"), "its chat template's .* missing, .* new$"),
        (("a", "b"), ("c", "d"), "tokenizer's .* a, .* c and its chat template's .* b, .* d$"),
    ],
)
async def test_another_model_is_refused(
    theirs: tuple[str, str], ours: tuple[str, str], said: str
) -> None:
    engine = FakeEngine([], theirs[0], chat_template_fingerprint=theirs[1])
    async with (
        running(engine) as served,
        pool_of(served.address, fingerprint=ours[0], template=ours[1]) as pool,
    ):
        async with asyncio.timeout(20):
            while not pool._engines[0].refused:
                await pool._changed.wait()
        with pytest.raises(ModelMismatchError, match=said):
            pool.model_info()
        assert not pool.ready
        assert not engine.sessions


async def test_an_engine_that_fits_is_taken_before_one_that_does_not() -> None:
    fits, other = FakeEngine([Script([[1]])], FINGERPRINT), FakeEngine([], "other")
    async with (
        running(other) as first,
        running(fits) as second,
        pool_of(first.address, second.address) as pool,
    ):
        await until_ready(pool)
        with pool.generate(request()) as run:
            assert [list(message.token_ids) async for message in run] == [[1]]
        assert len(fits.calls) == 1


async def test_the_least_loaded_engine_is_picked_and_of_equals_the_first() -> None:
    engines = [FakeEngine([Script([[1]], finish=None)], FINGERPRINT) for _ in range(2)]
    async with (
        running(engines[0]) as first,
        running(engines[1]) as second,
        pool_of(first.address, second.address) as pool,
    ):
        await until_ready(pool)
        async with asyncio.timeout(20):
            while not all(engine.ready for engine in pool._engines):
                await pool._changed.wait()
        runs: list[EngineStream] = []
        for i in range(4):
            runs.append(pool.generate(request(f"r{i}")))
            await anext(runs[i])
        assert [c.request.request_id for c in engines[0].calls] == ["r0", "r2"]
        assert [c.request.request_id for c in engines[1].calls] == ["r1", "r3"]
        with runs[3]:
            pass
        with pool.generate(request("r4")) as run:
            await anext(run)
            assert [c.request.request_id for c in engines[1].calls] == ["r1", "r3", "r4"]
        for run in runs:
            with run:
                pass
        assert num_running(pool) == [0, 0]
        assert [client.session.outstanding_tokens for client in pool._engines] == [0, 0]


async def test_leaving_a_run_cancels_it_at_the_engine() -> None:
    engine = FakeEngine([Script([[1]], finish=None)], FINGERPRINT)
    async with running(engine) as served, pool_of(served.address) as pool:
        await until_ready(pool)
        with pool.generate(request()) as run:
            await anext(run)
        async with asyncio.timeout(20):
            await engine.calls[0].ended.wait()
        assert not engine.calls[0].completed


async def test_abort_reaches_the_engine() -> None:
    engine = FakeEngine([Script([[1]], finish=None)], FINGERPRINT)
    async with running(engine) as served, pool_of(served.address) as pool:
        await until_ready(pool)
        with pool.generate(request()) as run:
            await anext(run)
            run.abort([0])
            last = await anext(run)
        assert last.finish_reason == types_pb2.FINISH_REASON_ABORT
        assert engine.sessions[0].cancelled == []


async def test_what_the_engine_says_about_a_field_comes_through() -> None:
    engine = FakeEngine([], FINGERPRINT)
    engine.refuse_with = InvalidRequestError("prompt_token_ids", "too long")
    async with running(engine) as served, pool_of(served.address) as pool:
        await until_ready(pool)
        with pytest.raises(InvalidRequestError, match="too long") as caught:
            await anext(pool.generate(request()))
        assert caught.value.field == "prompt_token_ids"


async def test_a_killed_engine_is_noticed_and_found_again() -> None:
    async with engine_process(FINGERPRINT) as (process, port), pool_of(f"127.0.0.1:{port}") as pool:
        await until_ready(pool)
        run = pool.generate(request())
        await anext(run)
        with pytest.raises(UnavailableError, match=f"engine 127.0.0.1:{port}: "):
            process.send_signal(signal.SIGKILL)
            async with asyncio.timeout(1):
                await anext(run)
        async with asyncio.timeout(1):
            await until_ready(pool, False)
        with pytest.raises(UnavailableError):
            pool.generate(request())
        async with engine_process(FINGERPRINT, port):
            await until_ready(pool)
            with pool.generate(request("again")) as run:
                assert (await anext(run)).request_id == "again"


async def test_close_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with running(FakeEngine([], FINGERPRINT)) as served, pool_of(served.address) as pool:
        await until_ready(pool)
    ours = ("follow", "read", "write")
    assert {t for t in asyncio.all_tasks() - before if t.get_name().startswith(ours)} == set()
