"""Standard error that blocks, breaks or is full: nothing that a log does may fail a call."""

import asyncio
import fcntl
import os
import signal
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

from chaos.callers.ask import Reference, direct, generate, params
from chaos.callers.call import reference_of
from chaos.checks.verdicts import Report
from chaos.incidents.incident import all_problems, ask_often, new_name, records_of, start
from chaos.processes.service import Service, command_of
from chaos.processes.site import Engine, front_end_stub
from folovllm_client.launch.service_commands import free_ports
from folovllm_client.launch.supervisor import until_serving

ASK = generate("logged", 8, params(2))
LONG = generate("long", 8, params(400))
_NUM_CALLS = 160
"""Their lines fill a pipe of one page several times."""
_START_SECONDS = 30.0
_CALL_SECONDS = 3.0
_DRAIN_SECONDS = 10.0


@contextmanager
def full_disk() -> Iterator[tuple[int, Callable[[], None]]]:
    """A file on a full disk, and what breaks it, which is nothing more."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor, lambda: None
    os.close(descriptor)


@contextmanager
def blocked_reader() -> Iterator[tuple[int, Callable[[], None]]]:
    """A pipe of one page that nobody reads."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield writing, lambda: None
    os.close(writing)
    os.close(reading)


@contextmanager
def dead_reader() -> Iterator[tuple[int, Callable[[], None]]]:
    """A pipe whose reader dies once it is told to."""
    reading, writing = os.pipe()
    os.set_inheritable(reading, False)
    yield writing, lambda: os.close(reading)
    os.close(writing)


KINDS = {"full disk": full_disk, "blocked reader": blocked_reader, "dead reader": dead_reader}


async def broken_logs(report: Report) -> None:
    """Each kind for each service: starting, serving, and a drain."""
    sound = Engine(("--device", "cpu"), fake=True)
    try:
        await sound.service.wait_serving()
        for kind in KINDS:
            await asyncio.gather(
                _judge(report, kind, "engine_service", sound),
                _judge(report, kind, "tokenizer_service", sound),
            )
    finally:
        await sound.close()


async def _judge(report: Report, kind: str, module: str, sound: Engine) -> None:
    """One service whose log is broken."""
    name = f"logs: {kind}: {module}"
    is_engine = module == "engine_service"
    with KINDS[kind]() as (descriptor, break_it):
        flags = ("--device", "cpu") if is_engine else ("--engine", sound.service.address)
        service = Service(module, *flags, fake=is_engine, stderr=descriptor)
        try:
            await service.wait_serving(within=_START_SECONDS)
            break_it()
            report.add(name, await _serve_and_drain(service, is_engine, sound))
        except AssertionError as error:
            report.add(name, [f"it does not start to serve: {str(error)[:100]}"])
        finally:
            await service.close()


async def _serve_and_drain(service: Service, is_engine: bool, sound: Engine) -> list[str]:
    """What is wrong with its calls, or with its end."""
    whole = await reference_of(sound.stub, direct(ASK), new_name("reference"))
    expected = Reference(whole.token_ids, ())
    if is_engine:
        engine = Engine(service=service)
        records = await ask_often(engine.stub, direct(ASK), _NUM_CALLS, _CALL_SECONDS)
        await engine.channel.close()
    else:
        async with front_end_stub(service.address) as stub:
            records = await ask_often(stub, ASK, _NUM_CALLS, _CALL_SECONDS)
    found = all_problems(records, expected)
    service.signal(signal.SIGTERM)
    code = await service.wait_ended(_DRAIN_SECONDS)
    return found if code == 0 else [*found, f"after SIGTERM its exit code is {code}"]


async def supervisor_killed(report: Report) -> None:
    """`folovllm serve` is killed while streams run: they end as ever, and the services then too."""
    port, engine_port = free_ports(2)
    ports = ("--port", str(port), "--engine-port", str(engine_port))
    command = command_of("folovllm_client", "serve", *ports)
    children: list[psutil.Process] = []
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    reading = asyncio.ensure_future(process.communicate())
    try:
        async with asyncio.timeout(60):
            await until_serving(f"127.0.0.1:{port}")
        children = psutil.Process(process.pid).children(recursive=True)
        async with front_end_stub(f"127.0.0.1:{port}") as stub:
            expected = await reference_of(stub, LONG, new_name("reference"))
            calls = start(stub, LONG, 24)
            await asyncio.gather(*(call.until_pieces(1) for call in calls))
            process.kill()
            records = await records_of(calls, within=30)
        found = all_problems(records, expected)
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, 15)
        found += [f"{each.name()} lives on" for each in alive]
        report.add("logs: supervisor killed", found)
    finally:
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        with suppress(ProcessLookupError):
            process.kill()
        await reading
