"""An engine's thread that panics or never returns: it says so, and the process ends."""

import asyncio
import signal

from chaos.callers.ask import direct, generate, params
from chaos.callers.call import Call, reference_of
from chaos.checks.canary import health_of
from chaos.checks.limits import DETECTION_SECONDS, WATCHDOG_SECONDS, watchdog_flags
from chaos.checks.verdicts import Report
from chaos.incidents.incident import LOST, all_problems, new_name, records_of, start
from chaos.processes.service import Service
from chaos.processes.site import Engine

STREAM = direct(generate("stream", 8, params(1000)))
_DEFAULT_WATCHDOG_SECONDS = 30.0


async def panic(report: Report) -> None:
    """A BaseException in a step."""
    await _dies(report, "panic", panics=True)


async def error(report: Report) -> None:
    """An exception in a step that concerns no request in particular."""
    await _dies(report, "error", panics=False)


async def _dies(report: Report, name: str, panics: bool) -> None:
    """Every stream ends at once, and the process with a reason."""
    engine = Engine(("--device", "cpu"), fake=True)
    service = engine.service
    try:
        await service.wait_serving()
        await service.ask("pace", 0.005)
        expected = await reference_of(engine.stub, STREAM, new_name("reference"))
        calls = start(engine.stub, STREAM, 8)
        await asyncio.gather(*(call.until_pieces(2) for call in calls))
        await service.ask("fail", panics)
        records = await records_of(calls, within=DETECTION_SECONDS)
        report.add(f"engine death: {name}: streams", all_problems(records, expected, LOST))
        health = "ended" if service.exit_code is not None else await health_of(service.address)
        report.add(
            f"engine death: {name}: health", ["it is SERVING"] if health == "SERVING" else []
        )
        code = await service.wait_ended(DETECTION_SECONDS)
        found = [] if code else [f"the exit code is {code}"]
        report.add(f"engine death: {name}: process", found)
    finally:
        await engine.close()


async def stuck_step(report: Report) -> None:
    """A step that never returns, with a short limit."""
    await _stuck(report, "stuck step", watchdog_flags(), WATCHDOG_SECONDS)


async def stuck_step_with_lock(report: Report) -> None:
    """The same inside a library that does not give the interpreter's lock back."""
    await _stuck(report, "stuck step with lock", watchdog_flags(), WATCHDOG_SECONDS, True)


async def stuck_step_by_default(report: Report) -> None:
    """The same with the limit that the service has by itself; takes half a minute."""
    await _stuck(report, "stuck step by default", (), _DEFAULT_WATCHDOG_SECONDS)


async def _stuck(
    report: Report, name: str, flags: tuple[str, ...], limit: float, holds_lock: bool = False
) -> None:
    engine = Engine(("--device", "cpu", *flags), fake=True)
    service = engine.service
    try:
        await service.wait_serving()
        calls = await _hang(engine, holds_lock)
        within = limit + DETECTION_SECONDS
        records = await records_of(calls, within=within)
        ended = [record for record in records if record.code is not None]
        found = [f"{len(records) - len(ended)} of {len(records)} streams have no end"]
        report.add(f"engine death: {name}: streams", found if len(ended) < len(records) else [])
        code = await service.wait_ended(DETECTION_SECONDS)
        found = [] if code else [f"the exit code is {code}"]
        if code is not None and "faulty_runner" not in service.log:
            found.append("its log does not show where the engine's thread stands")
        report.add(f"engine death: {name}: process", found)
    finally:
        await engine.close()


async def stuck_and_stopped(report: Report) -> None:
    """The second signal ends a process whose step hangs."""
    engine = Engine(("--device", "cpu"), fake=True)
    service: Service = engine.service
    try:
        await service.wait_serving()
        calls = await _hang(engine)
        service.signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        service.signal(signal.SIGTERM)
        code = await service.wait_ended(5.0)
        found = ["it lives 5 s after the second SIGTERM"] if code is None else []
        report.add("engine death: stuck step: second SIGTERM", found)
        await records_of(calls, within=0.1)
    finally:
        await engine.close()


async def _hang(engine: Engine, holds_lock: bool = False) -> list[Call]:
    """Streams whose engine hangs after some steps."""
    await engine.service.ask("pace", 0.005)
    calls = start(engine.stub, STREAM, 4)
    await asyncio.gather(*(call.until_pieces(2) for call in calls))
    await engine.service.ask("hang", holds_lock)
    return calls
