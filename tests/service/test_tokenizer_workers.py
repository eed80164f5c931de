"""`python -m tokenizer_service --workers 2`: connections spread, lost workers, every end."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from folovllm.v1 import (
    engine_service_pb2,
    engine_service_pb2_grpc,
    tokenizer_service_pb2_grpc,
    types_pb2,
)
from folovllm.v1 import tokenizer_service_pb2 as messages
from support.builders.sample_tokenizers import save_byte_tokenizer
from support.fakes.engine import engine_process
from tokenizer_service.text.tokenizer import Tokenizer
from tokenizer_service.workers.worker import Heart, Worker

ROOT = Path(__file__).parents[2]
NO_ENGINE = "127.0.0.1:1"

FAILING = """
from folovllm.serving.logs import LogConfig, configure_logging
from tokenizer_service.workers.parent import WorkerLimits, Workers
configure_logging(LogConfig("json"), threaded=False)
Workers(2, lambda heart: 3, WorkerLimits(9, 9)).run()
"""
FAILING_AT_THE_END = """
import signal, sys
from folovllm.serving.logs import LogConfig, configure_logging
from tokenizer_service.workers.parent import WorkerLimits, Workers

def stop(*_):
    raise RuntimeError("no good end")

def work(heart):
    signal.signal(signal.SIGTERM, stop)
    print('{"event": "ready"}', file=sys.stderr, flush=True)
    while True:
        signal.pause()

configure_logging(LogConfig("json"), threaded=False)
sys.exit(Workers(1, work, WorkerLimits(9, 9)).run())
"""
STOP_NEVER = """
def stop_never():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

"""


class Service:
    """The parent process and what it logs. Its process group is its own, as in a terminal."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.address = ""
        self.workers: list[int] = []

    async def event(self, name: str) -> dict[str, Any]:
        """The next line about that event."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            entry = json.loads(line) if line.startswith(b"{") else {"event": line.decode()}
            if entry["event"] == name:
                return dict(entry)
        raise AssertionError(f"the service ended before {name!r}")

    async def ended(self) -> str:
        """What it wrote until no process was left that could write."""
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    async def connect(self, stack: AsyncExitStack) -> tuple[grpc.aio.Channel, int]:
        """A connection of its own, and the worker that took it."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(self.address, options=options)
        )
        stub: Any = tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Fork(types_pb2.ForkRequest(request_id="nobody's")).read()
        return channel, (await self.event("call"))["pid"]

    async def connect_to_all(self, stack: AsyncExitStack) -> dict[int, grpc.aio.Channel]:
        """A connection to each worker: the kernel gives each new one to any of them."""
        channels: dict[int, grpc.aio.Channel] = {}
        while channels.keys() != set(self.workers):
            channel, pid = await self.connect(stack)
            channels[pid] = channel
        return channels


@asynccontextmanager
async def started(*command: str) -> AsyncIterator[Service]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stderr=asyncio.subprocess.PIPE, cwd=ROOT, start_new_session=True
    )
    try:
        async with asyncio.timeout(100):
            yield Service(process)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


@asynccontextmanager
async def two_workers(engine: str = NO_ENGINE, *flags: str) -> AsyncIterator[Service]:
    command = f"-m tokenizer_service --port 0 --log-format json --workers 2 --engine {engine}"
    async with started(*command.split(), *flags) as service:
        for _ in range(2):
            ready = await service.event("ready")
            service.address = ready["address"]
            service.workers.append(ready["pid"])
        yield service


@asynccontextmanager
async def streaming(tmp_path: Path) -> AsyncIterator[tuple[Service, dict[int, Any], Any]]:
    """A service, a stream that runs in each of its workers, and the engine that feeds them."""
    model = save_byte_tokenizer(tmp_path)
    async with AsyncExitStack() as stack:
        fingerprint = Tokenizer.from_folder(model).fingerprint
        _, port = await stack.enter_async_context(engine_process(fingerprint))
        engine = f"127.0.0.1:{port}"
        service = await stack.enter_async_context(two_workers(engine, "--model", str(model)))
        calls = {}
        for pid, channel in (await service.connect_to_all(stack)).items():
            await _serving(channel)
            stub: Any = tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
            calls[pid] = stub.Generate(messages.GenerateRequest(request_id=f"{pid}", text="a"))
            assert (await calls[pid].read()).text == "hello"
        to_engine = await stack.enter_async_context(grpc.aio.insecure_channel(engine))
        yield service, calls, engine_service_pb2_grpc.EngineServiceStub(to_engine)


async def _serving(channel: grpc.aio.Channel) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
        pass
    watch.cancel()


async def test_a_lost_worker_is_replaced_while_the_others_go_on() -> None:
    async with two_workers() as service, AsyncExitStack() as stack:
        channels = await service.connect_to_all(stack)
        lost, other = service.workers
        os.kill(lost, signal.SIGKILL)
        ended = await service.event("worker ended")
        assert (ended["pid"], ended["cause"], ended["restarted"]) == (lost, "SIGKILL", True)
        ready = await service.event("ready")
        assert ready["address"] == service.address and ready["pid"] not in (lost, other)

        health = health_pb2_grpc.HealthStub(channels[other])
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING  # it has no engine
        service.workers = [other, ready["pid"]]
        await service.connect_to_all(stack)


@pytest.mark.parametrize("how", ["SIGTERM to the parent", "Ctrl-C in a terminal"])
async def test_all_workers_drain(tmp_path: Path, how: str) -> None:
    async with streaming(tmp_path) as (service, calls, engine):
        if how == "SIGTERM to the parent":
            service.process.terminate()
        else:
            os.killpg(service.process.pid, signal.SIGINT)
        drained = {(await service.event("draining"))["pid"] for _ in calls}
        assert drained == set(service.workers)
        for pid, call in calls.items():
            await engine.Abort(engine_service_pb2.AbortRequest(request_id=f"{pid}", indexes=[0]))
            assert (await call.read()).finish_reason == types_pb2.FINISH_REASON_ABORT
            assert await call.read() is grpc.aio.EOF
        assert await service.process.wait() == 0
        assert "worker ended" not in await service.ended()


async def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (service, calls, _):
        service.process.terminate()
        for _ in calls:
            await service.event("draining")
        service.process.terminate()
        assert await service.process.wait() == 0
        for call in calls.values():
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()


async def test_workers_end_with_a_parent_that_is_killed() -> None:
    async with two_workers() as service:
        service.process.kill()
        stopped = re.findall('"stopped", "pid": ([0-9]+)', await service.ended())
        assert {int(pid) for pid in stopped} == set(service.workers)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_shared_port_is_taken_for_others(workers: str) -> None:
    async with two_workers() as service:
        port = service.address.rpartition(":")[2]
        async with started("-m", "tokenizer_service", "--port", port, "--workers", workers) as late:
            said = await late.ended()
            assert await late.process.wait() == 1
        assert said.startswith(f"error: cannot listen on {service.address}: the port is in use")
        assert said.count("\n") == 1


async def test_workers_that_fail_at_once_come_back_in_intervals() -> None:
    async with started("-c", FAILING) as service:
        times = [await service.event("worker started") for _ in range(3)]
        first, _, third = (datetime.fromisoformat(each["timestamp"]) for each in times)
        assert (third - first).total_seconds() > 0.9
        assert (await service.event("worker ended"))["cause"] == "exit code 3"


async def test_a_worker_that_fails_while_it_stops_is_told() -> None:
    async with started("-c", FAILING_AT_THE_END) as service:
        await service.event("ready")
        service.process.terminate()
        said = await service.ended()
        assert await service.process.wait() == 1
    assert "RuntimeError: no good end" in said and '"restarted": false' in said


IGNORE_ABORT = """
import signal, time
signal.signal(signal.SIGABRT, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("beats", [0, 5])
def test_a_worker_that_hangs_is_ended_in_the_end(beats: int) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", IGNORE_ABORT], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process, process.stdout:
        process.stdout.readline()
        worker = Worker(process.pid, reading)
        for _ in range(beats):
            Heart(writing).beat()
            assert not worker.tick(2)
            worker.hear()
        assert [worker.tick(2) for _ in range(2)] == [False, True]
        worker.end()
        assert not any(worker.tick(2) for _ in range(2))
        assert process.wait() == -signal.SIGKILL
    worker.close()
    os.close(writing)


async def test_a_worker_that_is_stopped_is_replaced_at_once() -> None:
    async with two_workers(NO_ENGINE, "--hang-timeout", "600") as service:
        stopped, other = service.workers
        os.kill(stopped, signal.SIGSTOP)
        hanging = await service.event("worker hangs")
        assert hanging["pid"] == stopped
        ended = await service.event("worker ended")
        assert (ended["pid"], ended["cause"], ended["restarted"]) == (stopped, "SIGABRT", True)
        ready = await service.event("ready")
        service.workers = [other, ready["pid"]]
        async with AsyncExitStack() as stack:
            await service.connect_to_all(stack)


async def test_workers_that_only_fail_end_the_parent_in_one_last_line() -> None:
    program = FAILING.replace("Workers(2", "parent._RESTART_INTERVAL = 0.001\nWorkers(2")
    program = "from tokenizer_service.workers import parent\n" + program
    async with started("-c", program) as service:
        said = await service.ended()
        assert await service.process.wait() == 1
    assert said.splitlines()[-1].endswith("10 workers in a row ended at their start: exit code 3")


async def test_a_worker_that_does_not_stop_is_killed() -> None:
    program = FAILING_AT_THE_END.replace("signal.signal(signal.SIGTERM, stop)", "stop_never()")
    program = program.replace("def work", STOP_NEVER + "def work").replace("(9, 9)", "(9, 0.1)")
    async with started("-c", program) as service:
        await service.event("ready")
        service.process.terminate()
        assert (await service.event("worker does not stop"))["level"] == "error"
        assert (await service.event("worker ended"))["cause"] == "SIGKILL"
        assert await service.process.wait() == 1
