"""Grammars that are built by processes which may be lost, on the embedded model's vocabulary."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psutil
import pytest

from engine_service.structured_output.grammar import Grammar
from engine_service.structured_output.rehearsal.limits import RehearsalLimits
from engine_service.structured_output.rehearsed_compiler import RehearsedCompiler
from folovllm.errors import InvalidRequestError, QueueFullError, UnavailableError
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput
from support.builders.grammar_walks import demo_compiler

JSON_OBJECT = StructuredOutput("json_object", True)
DIGITS = StructuredOutput("regex", "[0-9]{2,3}")
# Passes every check of the text; the automaton of what any of them divides takes minutes and GiBs.
ENDLESS = StructuredOutput(
    "json_schema",
    json.dumps({"anyOf": [{"type": "integer", "multipleOf": 4951 + 2 * k} for k in range(9)]}),
)
PATIENT = RehearsalLimits(wall_seconds=60.0, max_wait_seconds=60.0)
BRIEF = RehearsalLimits(0.02, 0.04, wall_seconds=60.0, max_wait_seconds=60.0)


def one_of(number: int) -> StructuredOutput:
    return StructuredOutput("regex", f"[0-9]{{2,{number}}}")


def endless(number: int) -> StructuredOutput:
    return StructuredOutput("json_schema", f"{ENDLESS.value}{' ' * number}")


@asynccontextmanager
async def rehearsed(limits: RehearsalLimits = PATIENT) -> AsyncIterator[RehearsedCompiler]:
    compiler = RehearsedCompiler(demo_compiler(), limits)
    try:
        yield compiler
    finally:
        compiler.close()


async def refused(compiler: RehearsedCompiler, output: StructuredOutput) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        await compiler.compile(output, None)
    assert caught.value.field == f"sampling_params.{output.kind}"
    return str(caught.value)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def builders(compiler: RehearsedCompiler) -> list[psutil.Process]:
    pid = compiler.lanes.server.pid
    return [] if pid is None else psutil.Process(pid).children()


def compiling(
    compiler: RehearsedCompiler, output: StructuredOutput, caller: str = ""
) -> asyncio.Task[Grammar]:
    return asyncio.create_task(compiler.compile(output, None, caller))


async def test_what_passes_is_built_and_what_fails_is_refused_in_the_librarys_words() -> None:
    async with rehearsed() as compiler:
        assert compiler.lanes.server.pid is None
        grammar = await compiler.compile(DIGITS, None)
        assert grammar.matcher().must_stop is False
        assert 0 < grammar.num_bytes < 32 * 2**20
        assert await compiler.compile(DIGITS, None) is grammar
        assert "unclosed group" in await refused(compiler, StructuredOutput("regex", "("))
        assert "excludes quotes" in await refused(
            compiler, StructuredOutput("json_schema", '{"pattern": "[^\\""}')
        )
        await until(lambda: not builders(compiler))


async def test_what_takes_too_much_processor_time_is_refused_and_remembered() -> None:
    async with rehearsed(BRIEF) as compiler:
        message = await refused(compiler, ENDLESS)
        assert "takes more than 0.04 s of processor time" in message
        number = compiler.lanes.server.num_replies
        assert await refused(compiler, ENDLESS) == message
        assert compiler.lanes.server.num_replies == number
        assert await compiler.compile(DIGITS, None)


async def test_what_takes_too_much_memory_is_refused() -> None:
    limits = RehearsalLimits(60.0, 60.0, 1, 60.0, memory_bytes=12 * 2**20, kept_bytes=2**20)
    async with rehearsed(limits) as compiler:
        assert "takes more than 12 MiB to compile" in await refused(compiler, ENDLESS)
        options = StructuredOutput("choice", tuple(f"option {i}" for i in range(2000)))
        assert "takes more than 1 MiB once it is compiled" in await refused(compiler, options)
        assert await compiler.compile(DIGITS, None)


async def test_what_takes_too_much_time_a_token_is_refused() -> None:
    costly = StructuredOutput("grammar", 'start: x{38,768058}\nx: "a" | x "b" | ""')
    async with rehearsed(RehearsalLimits(60.0, 60.0, token_seconds=0.005)) as compiler:
        assert "takes more than 5 ms of processor time a token" in await refused(compiler, costly)
        assert await compiler.compile(DIGITS, None)


async def test_what_is_ours_or_has_passed_starts_no_process_and_waits_for_none() -> None:
    limits = RehearsalLimits(60.0, 60.0, wall_seconds=60.0, max_wait_seconds=60.0)
    async with rehearsed(limits) as compiler:
        assert await compiler.compile(JSON_OBJECT, None)
        assert await compiler.compile(None, Reasoning(2047, 2046, 100))
        assert await compiler.compile(JSON_OBJECT, Reasoning(2047, 2046))
        assert compiler.lanes.server.pid is None
        await compiler.compile(DIGITS, None)
        compiler._compiler.cache = type(compiler._compiler.cache)(0)  # which forgets it
        floods = [compiling(compiler, endless(i)) for i in range(8)]
        await until(lambda: compiler.lanes.short.num_waiting == 7)
        assert await compiler.compile(DIGITS, None)
        assert await compiler.compile(None, Reasoning(2047, 2046, 7))
        assert compiler.lanes.short.num_waiting == 7
        for flood in floods:
            flood.cancel()
        await asyncio.gather(*floods, return_exceptions=True)


async def test_slow_builds_leave_the_first_lane_to_others() -> None:
    limits = RehearsalLimits(0.02, 60.0, wall_seconds=60.0, max_wait_seconds=60.0)
    async with rehearsed(limits) as compiler:
        floods = [compiling(compiler, endless(i)) for i in range(4)]
        await until(lambda: compiler.lanes.long.num_waiting == 2)
        assert compiler.lanes.long.num_running == 2
        assert await compiler.compile(DIGITS, None)
        for flood in floods:
            flood.cancel()
        await asyncio.gather(*floods, return_exceptions=True)
        await until(lambda: not builders(compiler))
        assert compiler.lanes.long.num_running == compiler.lanes.long.num_waiting == 0


async def test_a_build_ends_when_nobody_waits_for_it_and_not_before() -> None:
    limits = RehearsalLimits(60.0, 60.0, wall_seconds=60.0)
    async with rehearsed(limits) as compiler:
        first, second = compiling(compiler, ENDLESS), compiling(compiler, ENDLESS)
        await until(lambda: builders(compiler))
        (builder,) = builders(compiler)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert builders(compiler) == [builder]
        second.cancel()
        await until(lambda: not builders(compiler))
        assert await compiler.compile(DIGITS, None)


async def test_a_builder_that_is_killed_harms_only_its_own_request() -> None:
    limits = RehearsalLimits(60.0, 60.0, wall_seconds=60.0, max_wait_seconds=60.0)
    async with rehearsed(limits) as compiler:
        lost, other = compiling(compiler, ENDLESS), compiling(compiler, DIGITS)
        await until(lambda: builders(compiler))
        builders(compiler)[0].kill()
        with pytest.raises(InvalidRequestError, match="was killed"):
            await lost
        assert await other
        await until(lambda: not builders(compiler))
        again = compiling(compiler, ENDLESS)  # it is not remembered
        await until(lambda: builders(compiler))
        builders(compiler)[0].send_signal(signal.SIGSEGV)
        with pytest.raises(InvalidRequestError, match="nested too deeply"):
            await again


async def test_a_process_that_is_lost_is_replaced_once_for_each_request() -> None:
    limits = RehearsalLimits(60.0, 60.0, wall_seconds=60.0)
    async with rehearsed(limits) as compiler:
        task = compiling(compiler, ENDLESS)
        for _ in range(2):
            await until(lambda: builders(compiler))
            pid = compiler.lanes.server.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: compiler.lanes.server.pid != pid)  # type: ignore[misc]
        with pytest.raises(UnavailableError, match="lost"):
            await task
        assert await compiler.compile(DIGITS, None)


async def test_a_process_that_does_not_start_is_told_of() -> None:
    async with rehearsed(RehearsalLimits(start_seconds=0.0)) as compiler:
        with pytest.raises(UnavailableError, match="lost"):
            await compiler.compile(DIGITS, None)
        assert compiler.lanes.server.pid is None


async def test_without_the_processor_a_request_is_refused_for_now() -> None:
    limits = RehearsalLimits(60.0, 60.0, wall_seconds=0.02)
    async with rehearsed(limits) as compiler:
        with pytest.raises(QueueFullError, match="too little of the processor"):
            await compiler.compile(ENDLESS, None)
        await until(lambda: not builders(compiler))


async def test_the_queue_is_bounded_in_number_and_time() -> None:
    limits = RehearsalLimits(60.0, 60.0, wall_seconds=60.0, max_waiting=2, max_wait_seconds=0.05)
    async with rehearsed(limits) as compiler:
        running = compiling(compiler, ENDLESS)
        await until(lambda: builders(compiler))
        waiting = [compiling(compiler, one_of(3 + i), "attacker") for i in range(3)]
        with pytest.raises(QueueFullError, match="too many grammars wait already") as caught:
            await waiting[2]
        assert 1.0 <= caught.value.retry_after <= 10.0
        for task in waiting[:2]:
            with pytest.raises(QueueFullError, match="take too long"):
                await task
        assert compiler.lanes.short.num_waiting == 0
        running.cancel()
        await until(lambda: not builders(compiler))
        assert await compiler.compile(DIGITS, None)


async def test_a_request_may_be_given_up_in_the_queue() -> None:
    limits = RehearsalLimits(60.0, 60.0, wall_seconds=60.0, max_wait_seconds=60.0)
    async with rehearsed(limits) as compiler:
        running, queued = compiling(compiler, ENDLESS), compiling(compiler, DIGITS)
        await until(lambda: compiler.lanes.short.num_waiting)
        queued.cancel()
        await until(lambda: not compiler.lanes.short.num_waiting)
        next_one = compiling(compiler, one_of(5))
        running.cancel()
        assert await next_one


async def test_an_idle_process_ends_and_starts_again_when_it_is_needed() -> None:
    async with rehearsed(RehearsalLimits(idle_seconds=0.0)) as compiler:
        for number in (4, 5):
            assert await compiler.compile(one_of(number), None)
            await until(lambda: compiler.lanes.server.pid is None)


def test_the_process_imports_no_more_than_it_needs() -> None:
    builder = "engine_service.structured_output.rehearsal.builder"
    program = f"import sys, folovllm.serving.lanes.fork_server, {builder}\nprint(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True
    )
    assert not {b"torch", b"numpy", b"grpc", b"google.protobuf"} & set(result.stdout.split())
