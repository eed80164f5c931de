"""Engines that fail, hang or panic: everyone who waits is told, soon and what is known."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest
import structlog

from engine_service.config import SchedulerConfig
from engine_service.core.request import Request
from engine_service.engine import watchdog as watchdog_module
from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.commands import Generate
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.output_stream import OutputStream
from engine_service.engine.step_clock import StepClock
from engine_service.engine.watchdog import Watchdog
from folovllm.errors import EngineDeadError, FolovError, RequestFailedError
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine

FLOOR = 0.1


class PanicException(BaseException):
    """As pyo3_runtime's, a class of Rust's panics."""


class Fixture:
    """An engine that can be broken."""

    def __init__(self, max_num_seqs: int = 16) -> None:
        self.llm_engine, self.runner = make_engine(max_num_seqs=max_num_seqs)
        self.engine = AsyncEngine(
            lambda: self.llm_engine, SchedulerConfig(max_num_waiting=100), min_stuck_seconds=FLOOR
        )
        self.statuses: list[int] = []
        self.watchdog = Watchdog(self.engine, self.statuses.append)

    def submit(self, name: str) -> OutputStream:
        params = SamplingParams(max_tokens=50)
        return self.engine.submit(Generate(Request(name, [3, 1, 4], params, seed=7)))


async def error_of(stream: OutputStream) -> FolovError | None:
    try:
        async for _ in stream:
            pass
    except FolovError as error:
        return error
    return None


@pytest.fixture
async def fixture() -> AsyncIterator[Fixture]:
    fixture = Fixture()
    await fixture.engine.start()
    yield fixture
    fixture.watchdog.stop()
    fixture.runner.release()
    await fixture.engine.stop()


@pytest.mark.parametrize("failure", [RuntimeError, PanicException, SystemExit, KeyboardInterrupt])
async def test_any_exception_ends_all_streams_before_it_is_logged(
    failure: type[BaseException], fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = threading.Event()
    may_log = threading.Event()

    def log(*_: object, **__: object) -> None:
        logged.set()
        assert may_log.wait(timeout=60)  # a reader of the log that has stopped

    monkeypatch.setattr("engine_service.engine.driving.engine_work.log.exception", log)
    fixture.runner.hold()
    streams = [fixture.submit(name) for name in "abc"]
    fixture.runner.failure = failure("a panic")
    fixture.runner.release()
    for stream in streams:
        assert isinstance(await error_of(stream), EngineDeadError)
    await fixture.engine.wait_died()
    may_log.set()
    with pytest.raises(EngineDeadError):
        fixture.submit("d")


async def test_a_panic_while_the_model_loads_ends_the_start() -> None:
    def build() -> LLMEngine:
        raise PanicException("no weights")

    with pytest.raises(FolovError, match="does not start: PanicException.*no weights"):
        await AsyncEngine(build, None).start()


async def test_each_stream_is_told_whether_a_step_had_begun_to_compute_it() -> None:
    fixture = Fixture(max_num_seqs=2)
    await fixture.engine.start()
    fixture.runner.hold()
    streams = [fixture.submit(name) for name in "abc"]
    while not all(stream.scheduled for stream in streams[:2]):
        await asyncio.sleep(0)
    fixture.runner.failure = RuntimeError("the device is gone")
    fixture.runner.release()
    errors = [await error_of(stream) for stream in streams]
    assert [isinstance(error, EngineDeadError) and error.scheduled for error in errors] == [
        True,
        True,
        False,
    ]
    await fixture.engine.stop()


async def test_a_request_that_fails_ends_alone(fixture: Fixture) -> None:
    fixture.runner.hold()
    streams = [fixture.submit(name) for name in "abc"]
    fixture.runner.poison = {(len(fixture.runner.steps), 0)}
    fixture.runner.release()
    errors = [await error_of(stream) for stream in streams]
    assert errors[1:] == [None, None]
    assert isinstance(errors[0], RequestFailedError) and errors[0].request_id == "a"
    assert fixture.engine.num_requests == 0 and fixture.engine.num_admissible == 100


async def test_a_command_that_fails_ends_alone(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object) -> None:
        raise KeyError("a bug")

    other = fixture.submit("a")
    await anext(other)
    with monkeypatch.context() as patch:
        patch.setattr(fixture.llm_engine, "add_request", raises)
        assert isinstance(await error_of(fixture.submit("b")), RequestFailedError)
    assert await error_of(other) is None and await error_of(fixture.submit("b")) is None


async def test_a_stuck_step_ends_all_streams_and_then_the_process(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog_module, "_END_LIMIT", FLOOR)
    fixture.watchdog.start()
    assert await error_of(fixture.submit("before")) is None
    fixture.runner.hold()
    with structlog.testing.capture_logs() as lines:
        began = time.monotonic()
        error = await error_of(fixture.submit("a"))
        assert isinstance(error, EngineDeadError) and "stuck in a step" in str(error)
        assert time.monotonic() - began >= FLOOR
        await fixture.engine.wait_died()
        while not fixture.statuses or not lines:
            await asyncio.sleep(0.01)
    assert fixture.statuses == [1]
    assert "in execute" in lines[0]["stack"] and "Thread" in lines[0]["stack"]
    assert not await fixture.engine.stop(0.01)


async def test_what_is_idle_or_compiles_is_not_stuck(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture.watchdog.start()
    await asyncio.sleep(2 * FLOOR)
    monkeypatch.setattr(watchdog_module, "_COMPILERS", ("support.fakes.model_runner",))
    fixture.runner.hold()
    stream = fixture.submit("a")
    await asyncio.sleep(3 * FLOOR)
    fixture.runner.release()
    assert await error_of(stream) is None and fixture.statuses == []


async def test_stop_is_bounded_while_a_step_hangs(fixture: Fixture) -> None:
    fixture.runner.hold()
    stream = fixture.submit("a")
    while not fixture.runner.is_held:
        await asyncio.sleep(0)
    began = time.monotonic()
    assert not await fixture.engine.stop(0.05)
    assert time.monotonic() - began < 5
    assert isinstance(await error_of(stream), EngineDeadError)
    fixture.runner.release()
    assert await fixture.engine.stop()


def test_a_step_may_take_ten_times_as_long_as_the_slowest_of_its_size() -> None:
    now = 100.0
    clock = StepClock(floor=30.0, clock=lambda: now)
    assert clock.seconds == 0.0 and clock.limit(1) == clock.limit(5000) == 30.0

    def take(num_tokens: int, seconds: float) -> None:
        nonlocal now
        clock.begin()
        now += seconds
        assert clock.seconds == pytest.approx(seconds)
        clock.end(num_tokens)

    take(1, 0.5)
    take(1, 0.25)
    assert clock.limit(1) == 30.0
    # A prompt of 2048 tokens may take as long as 2048 times one token.
    assert clock.limit(2048) == pytest.approx(10 * 0.5 * 2048)
    take(2048, 40.0)
    assert clock.limit(2048) == clock.limit(3000) == pytest.approx(400.0)
    assert clock.limit(1) == 30.0 and clock.seconds == 0.0
