"""The engine's thread and the event loop, with a fake model."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest

from engine_service.config import SchedulerConfig
from engine_service.core.request import Request
from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.commands import Generate
from engine_service.engine.delivery.step_outputs import StepOutputs
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.output_stream import OutputStream
from folovllm.errors import ConfigError, EngineDeadError, InvalidRequestError, QueueFullError
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine, make_overlapping_engine
from support.fakes.inline_driver import InlineDriver
from support.fakes.model_runner import FakeModelRunner, expected_tokens
from support.integrity import check_integrity

PROMPT = [3, 1, 4, 1, 5]


class Fixture:
    """A running AsyncEngine and what is under it."""

    def __init__(
        self,
        max_num_waiting: int = 100,
        overlapping: bool = False,
        max_num_seqs: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.llm_engine: LLMEngine
        self.runner: FakeModelRunner
        make = make_overlapping_engine if overlapping else make_engine
        self.llm_engine, self.runner = make(max_num_seqs=max_num_seqs, clock=clock)
        self.engine = AsyncEngine(
            lambda: self.llm_engine, SchedulerConfig(max_num_waiting=max_num_waiting), clock=clock
        )

    async def read(self, stream: OutputStream) -> RequestOutput:
        result = RequestOutput()
        async for output in stream:
            result.add(output)
        return result

    async def held(self) -> OutputStream:
        """A request that has begun, while the engine is held still."""
        self.runner.hold(after=1)
        stream = self.engine.submit(request("running", max_tokens=20))
        await anext(stream)
        return stream

    async def until_idle(self) -> None:
        """Returns when the engine holds nothing any more; pytest's timeout bounds it."""
        while self.engine.num_requests or self.engine.load.num_running:
            await asyncio.sleep(0)


@pytest.fixture(params=[False, True], ids=["in turn", "overlapping"])
async def fixture(request: pytest.FixtureRequest) -> AsyncIterator[Fixture]:
    fixture = Fixture(overlapping=request.param)
    await fixture.engine.start()
    yield fixture
    fixture.runner.release()
    await fixture.engine.stop()
    check_integrity(fixture.llm_engine.scheduler)


def request(name: str = "a", **params: object) -> Generate:
    return Generate(Request(name, PROMPT, SamplingParams().clone(**params), seed=7))


def arrived(name: str, time: float) -> Generate:
    params = SamplingParams(max_tokens=5)
    return Generate(Request(name, PROMPT, params, seed=7, arrival_time=time))


async def test_many_streams_at_once(fixture: Fixture) -> None:
    streams = [fixture.engine.submit(request(str(i), n=2, max_tokens=i + 1)) for i in range(20)]
    results = await asyncio.gather(*(fixture.read(stream) for stream in streams))
    for number, result in enumerate(results):
        for index in range(2):
            tokens = expected_tokens(PROMPT, number + 1, seed=7, index=index)
            assert result.outputs[index].token_ids == tokens
    assert fixture.engine.num_requests == 0
    assert fixture.engine.num_admissible == 100


async def test_a_reader_that_lags_gets_merged_pieces(fixture: Fixture) -> None:
    stream = fixture.engine.submit(request(max_tokens=50))
    await fixture.until_idle()
    pieces = [piece async for piece in stream]
    assert len(pieces) == 1
    assert pieces[0].token_ids == expected_tokens(PROMPT, 50, seed=7)
    assert pieces[0].info and pieces[0].finish_reason is FinishReason.LENGTH


async def test_release_frees_a_running_and_a_queued_request(fixture: Fixture) -> None:
    fixture.runner.hold(after=1)
    running = fixture.engine.submit(request("running", max_tokens=100))
    await anext(running)
    queued = fixture.engine.submit(request("queued", max_tokens=100))
    for stream in (running, queued):
        fixture.engine.release(stream)
    fixture.runner.release()
    await fixture.until_idle()
    assert fixture.engine.load.num_free_kv_blocks == 64
    assert fixture.engine.num_admissible == 100


async def test_the_end_of_a_reader_does_not_end_another_request_of_its_name(
    fixture: Fixture,
) -> None:
    first = fixture.engine.submit(request("a", max_tokens=5))
    await fixture.until_idle()
    fixture.runner.hold()
    second = fixture.engine.submit(request("a", max_tokens=6))
    assert len((await fixture.read(first)).outputs[0].token_ids) == 5
    fixture.engine.release(first)
    fixture.runner.release()
    result = await fixture.read(second)
    assert result.outputs[0].finish_reason is FinishReason.LENGTH


async def test_abort_ends_a_stream_with_its_reason(fixture: Fixture) -> None:
    fixture.runner.hold(after=1)
    stream = fixture.engine.submit(request(n=2, max_tokens=100))
    assert fixture.engine.abort("a", [1])
    fixture.runner.release()
    result = await fixture.read(stream)
    assert [output.finish_reason for output in result.outputs] == ["length", "abort"]
    assert not fixture.engine.abort("a")


async def test_an_id_is_free_again_only_after_its_end(fixture: Fixture) -> None:
    fixture.runner.hold()
    fixture.engine.submit(request("a", max_tokens=5))
    with pytest.raises(InvalidRequestError, match="running already"):
        fixture.engine.submit(request("a"))
    fixture.runner.release()
    await fixture.until_idle()
    await fixture.read(fixture.engine.submit(request("a")))


async def test_a_full_queue_refuses_at_once() -> None:
    fixture = Fixture(max_num_waiting=2)
    await fixture.engine.start()
    fixture.runner.hold()
    streams = [fixture.engine.submit(request(name)) for name in "ab"]
    with pytest.raises(QueueFullError) as refused:
        fixture.engine.submit(request("c"))
    assert refused.value.retry_after > 0
    fixture.runner.release()
    for stream in streams:
        await fixture.read(stream)
    await fixture.read(fixture.engine.submit(request("c")))
    await fixture.engine.stop()


async def test_what_was_reserved_counts_until_it_is_withdrawn_or_has_ended() -> None:
    fixture = Fixture(max_num_waiting=2)
    await fixture.engine.start()
    first, second = (fixture.engine.reserve(request(name)) for name in "ab")
    with pytest.raises(QueueFullError):
        fixture.engine.reserve(request("c"))
    fixture.engine.withdraw(second)
    stream = fixture.engine.submit(request("a"), ticket=first)
    fixture.engine.withdraw(first)  # too late
    await fixture.read(stream)
    assert fixture.engine.num_admissible == 2
    await fixture.engine.stop()


async def test_a_caller_that_returns_at_its_turn_runs_before_what_came_meanwhile() -> None:
    now = 0.0
    fixture = Fixture(max_num_waiting=8, max_num_seqs=1, clock=lambda: now)
    await fixture.engine.start()
    running = await fixture.held()
    places = [fixture.engine.reserve(request(f"place {number}")) for number in range(8)]
    with pytest.raises(QueueFullError) as refused:
        fixture.engine.submit(arrived("early", 0.0))
    now = refused.value.retry_after
    for place in places[2:]:
        fixture.engine.withdraw(place)
    streams = [fixture.engine.submit(arrived(name, now)) for name in ("late", "early")]
    ended: list[str] = []

    async def read(stream: OutputStream) -> None:
        await fixture.read(stream)
        ended.append(stream.name)

    fixture.runner.release()
    await asyncio.gather(*map(read, [*streams, running]))
    assert ended == ["running", "early", "late"]
    await fixture.engine.stop()


async def test_what_has_waited_too_long_is_told_when_to_return() -> None:
    late = False

    def clock() -> float:
        """Jumps once the request is in the queue."""
        nonlocal late
        late = late or "waiting" in queued.llm_engine.scheduler._states.queued_since
        return 601.0 if late else 0.0

    queued = Fixture(max_num_seqs=1, clock=clock)
    await queued.engine.start()
    running = await queued.held()
    waiting = queued.engine.submit(arrived("waiting", 0.0))
    queued.runner.release()
    with pytest.raises(QueueFullError, match="waited in the queue") as ended:
        await queued.read(waiting)
    assert ended.value.retry_after > 0
    await queued.read(running)
    await queued.read(queued.engine.submit(arrived("waiting", 601.0)))
    await queued.engine.stop()


async def test_a_failing_engine_fails_every_stream_and_all_later_requests() -> None:
    fixture = Fixture()
    await fixture.engine.start()
    fixture.runner.hold()
    streams = [fixture.engine.submit(request(name, max_tokens=50)) for name in "abc"]
    fixture.runner.failure = RuntimeError("the device is gone")
    fixture.runner.release()
    for stream in streams:
        with pytest.raises(EngineDeadError):
            await fixture.read(stream)
    await fixture.engine.wait_died()
    with pytest.raises(EngineDeadError):
        _ = fixture.engine.info
    assert fixture.engine.num_requests == 0
    await fixture.engine.stop()


async def test_a_stop_that_is_not_waited_for_ends_every_stream(fixture: Fixture) -> None:
    fixture.runner.hold()
    streams = [fixture.engine.submit(request(name, max_tokens=50)) for name in "ab"]
    fixture.engine.begin_to_stop()
    fixture.runner.release()
    for stream in streams:
        with pytest.raises(EngineDeadError, match="was stopped"):
            await fixture.read(stream)
    with pytest.raises(EngineDeadError, match="was stopped"):
        fixture.engine.submit(request("c"))


async def test_a_model_that_cannot_be_loaded_ends_the_start() -> None:
    def build() -> LLMEngine:
        raise ConfigError("no weights")

    with pytest.raises(ConfigError, match="no weights"):
        await AsyncEngine(build, None).start()


async def test_the_model_lives_on_one_thread() -> None:
    threads: set[int] = set()

    class Spy(FakeModelRunner):
        def execute(self, output):  # type: ignore[no-untyped-def]
            threads.add(threading.get_ident())
            return super().execute(output)

    llm_engine, _ = make_engine(runner=Spy(4))

    def build() -> LLMEngine:
        threads.add(threading.get_ident())
        return llm_engine

    engine = AsyncEngine(build, None)
    await engine.start()
    async for _ in engine.submit(request()):
        assert threading.get_ident() not in threads
    await engine.stop()
    assert len(threads) == 1


async def test_it_needs_neither_a_thread_nor_time_of_its_own() -> None:
    loop = asyncio.get_running_loop()
    delivered: list[float] = []
    llm_engine, _ = make_engine(clock=loop.time)
    driver = InlineDriver(seconds=lambda outcome: 0.001)
    engine = AsyncEngine(lambda: llm_engine, SchedulerConfig(), clock=loop.time, driver=driver)
    num_threads = threading.active_count()
    await engine.start()
    streams = [engine.submit(request(name, n=2, max_tokens=4)) for name in "ab"]
    async for output in streams[0]:
        delivered.append(loop.time())
        assert output.token_ids
    assert [piece async for piece in streams[1]]
    assert delivered[-1] - delivered[0] > 0.0029  # three steps
    assert threading.active_count() == num_threads
    engine.submit(request("c", max_tokens=50))
    assert await engine.stop() and engine.has_died and engine.num_requests == 0


async def test_one_delivery_to_the_loop_for_each_step(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries: list[StepOutputs] = []
    deliver = fixture.engine._streams.deliver

    def count(step: StepOutputs, saturated: bool) -> None:
        deliveries.append(step)
        deliver(step, saturated)

    monkeypatch.setattr(fixture.engine._streams, "deliver", count)
    fixture.runner.hold()
    streams = [fixture.engine.submit(request(name, n=3, max_tokens=4)) for name in "abcd"]
    warm_up = len(fixture.runner.steps)
    fixture.runner.release()
    await asyncio.gather(*(fixture.read(stream) for stream in streams))
    assert len(deliveries) == len(fixture.runner.steps) - warm_up


async def test_close_drops_what_was_not_read() -> None:
    stream = OutputStream("a", 1)
    stream.put(CompletionOutput("a", 0, token_ids=[1]))
    stream.close()
    stream.put(CompletionOutput("a", 0, token_ids=[2], finish_reason=FinishReason.ABORT))
    assert [piece async for piece in stream] == []


async def test_drain_returns_everything_pending_and_notify_announces_it() -> None:
    stream, told = OutputStream("a", 2), []
    stream.notify = lambda: told.append(stream.complete)
    assert stream.drain() == []
    for index, token_id in ((0, 1), (1, 2), (0, 3)):
        stream.put(CompletionOutput("a", index, token_ids=[token_id]))
    assert [piece.token_ids for piece in stream.drain()] == [[1, 3], [2]]
    for index in range(2):
        stream.put(CompletionOutput("a", index, finish_reason=FinishReason.LENGTH))
    assert told == [False] * 4 + [True] and stream.complete
    stream.fail(EngineDeadError("gone"))
    assert len(told) == 6 and len(stream.drain()) == 2 and stream.error
    stream.close()
    stream.put(CompletionOutput("a", 0, finish_reason=FinishReason.ABORT))
    stream.fail(EngineDeadError("gone"))
    assert len(told) == 6


async def test_the_load_is_told_after_the_outputs_of_each_step(fixture: Fixture) -> None:
    seen: list[tuple[int, int]] = []
    stream = fixture.engine.submit(
        Generate(Request("a", [1] * 100, SamplingParams(max_tokens=3), seed=7))
    )

    def look() -> None:
        seen.append((fixture.engine.num_requests, sum(len(p.token_ids) for p in stream.drain())))

    with fixture.engine.load_watched(look):
        fixture.engine.submit(request("b", max_tokens=1))
        await fixture.until_idle()
    told = len(seen)
    assert seen[0] == (2, 0) and seen[-1][0] == 0
    # The prompt takes two steps, and only the second of them samples a token.
    assert sum(tokens for _, tokens in seen) == 3 and (2, 0) in seen[1:]
    await fixture.read(fixture.engine.submit(request("c")))
    assert len(seen) == told
