"""A peer that is there and says nothing: stopped, or behind a network that drops its packets.

It gets nothing new after 2 s, and its streams end after 10 s. A long step is not silence.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import psutil

from chaos.callers.ask import Reference, generate, params
from chaos.callers.call import Call, Manner, reference_of
from chaos.checks.canary import health_of
from chaos.checks.streams import problems
from chaos.checks.verdicts import Report
from chaos.incidents.incident import LOST, OK, all_problems, ask_often, new_name, records_of, start
from chaos.processes.service import Service
from chaos.processes.site import Engine, Site, front_end_stub, running_site

SMALL = generate("small", 8, params(4))
STREAM = generate("stream", 8, params(1500))
CPU = ("--device", "cpu")
NOTICED_SECONDS, ENDED_SECONDS = 2.0, 10.0
_SLACK = 1.0
_ANSWER_SECONDS = 3.0
_ANY_WORKER = 24
"""New connections that are all but certain to meet each of four workers."""
_LONG_STEP_SECONDS = _STALL_SECONDS = 4.0


async def stopped_while_idle(report: Report) -> None:
    """SIGSTOP to one engine of two, and to the only one."""
    await _idle(report, "engine stopped while idle", _stop)


async def dropped_while_idle(report: Report) -> None:
    """Its packets are dropped instead."""
    await _idle(report, "packets dropped while idle", _drop)


async def _stop(engine: Engine) -> None:
    engine.service.signal(signal.SIGSTOP)


async def _drop(engine: Engine) -> None:
    engine.proxy.drop()


async def _idle(report: Report, name: str, silence: Callable[[Engine], Awaitable[None]]) -> None:
    async with (
        running_site(CPU, CPU, fake=True, real_flags=()) as site,
        front_end_stub(site.front_end.address) as stub,
    ):
        expected = await reference_of(stub, SMALL, new_name("reference"))
        await silence(site.engines[0])
        await asyncio.sleep(NOTICED_SECONDS + _SLACK)
        records = await ask_often(stub, SMALL, 8, _ANSWER_SECONDS)
        report.add(f"silence: {name}: new requests", all_problems(records, expected))
        await silence(site.engines[1])
        await asyncio.sleep(NOTICED_SECONDS + _SLACK)
        health = await health_of(site.front_end.address)
        found = [] if health == "NOT_SERVING" else [f"without an engine it is {health}"]
        report.add(f"silence: {name}: health", found)
        records = await ask_often(stub, SMALL, 4, _ANSWER_SECONDS)
        report.add(f"silence: {name}: refused", all_problems(records, expected, LOST))


async def dropped_while_streaming(report: Report) -> None:
    """Streams end, or go on elsewhere if they have no output; new ones are answered."""
    async with running_site(CPU, CPU, fake=True, real_flags=()) as site:
        for engine in site.engines:
            await engine.service.ask("pace", 0.01)
        async with front_end_stub(site.front_end.address) as stub:
            small = await reference_of(stub, SMALL, new_name("reference"))
            expected = await reference_of(stub, STREAM, new_name("reference"))
            calls = start(stub, STREAM, 8)
            await asyncio.gather(*(call.until_pieces(2) for call in calls))
            lost = await _streams_of(site, calls)
            struck = time.monotonic()
            await _drop(site.engines[0])
            await asyncio.sleep(NOTICED_SECONDS + _SLACK)
            records = await ask_often(stub, SMALL, 4, _ANSWER_SECONDS)
            found = all_problems(records, small)
            report.add("silence: dropped while streaming: new requests", found)
            await asyncio.sleep(max(0.0, struck + ENDED_SECONDS + _SLACK - time.monotonic()))
            ended = [call for call in calls if call.record.code is not None]
            found = [f"{lost - len(ended)} of {lost} streams have no end"]
            is_late = len(ended) < lost
            report.add("silence: dropped while streaming: streams", found if is_late else [])
            wrong = all_problems([call.record for call in ended], expected, LOST | OK)
            report.add("silence: dropped while streaming: what they saw", wrong)
            await records_of(calls, within=0.1)


async def _streams_of(site: Site, calls: list[Call]) -> int:
    """How many of the calls run in the first engine."""
    return int((await site.engines[0].load()).num_requests)


async def short_stall(report: Report) -> None:
    """A network that stands still for seconds, and then delivers everything."""
    async with (
        running_site(CPU, fake=True, real_flags=()) as site,
        front_end_stub(site.front_end.address) as stub,
    ):
        engine = site.engines[0]
        await engine.service.ask("pace", 0.005)
        expected = await reference_of(stub, STREAM, new_name("reference"))
        calls = start(stub, STREAM, 4)
        await asyncio.gather(*(call.until_pieces(2) for call in calls))
        for flow in engine.proxy.flows():
            flow.stop()
        await asyncio.sleep(_STALL_SECONDS)
        for flow in engine.proxy.flows():
            flow.go_on()
        records = await records_of(calls, within=60)
        report.add("silence: a short stall is none", all_problems(records, expected))


async def long_step(report: Report) -> None:
    """An engine that computes one step for seconds is not silent."""
    async with running_site(CPU, fake=True, real_flags=()) as site:
        engine = site.engines[0]
        await engine.service.ask("pace", 0.005)
        async with front_end_stub(site.front_end.address) as stub:
            expected = await reference_of(stub, STREAM, new_name("reference"))
            calls = start(stub, STREAM, 4)
            await asyncio.gather(*(call.until_pieces(2) for call in calls))
            await engine.service.ask("allow", 0)
            await asyncio.sleep(_LONG_STEP_SECONDS)
            health = await health_of(site.front_end.address)
            await engine.service.ask("allow", None)
            records = await records_of(calls, within=60)
            found = all_problems(records, expected)
            found += [] if health == "SERVING" else [f"meanwhile the front end was {health}"]
            report.add("silence: a long step is none", found)


async def stopped_worker(report: Report) -> None:
    """One of four workers is stopped: new connections reach the others, or its replacement."""
    engine = Engine(CPU, fake=True)
    await engine.service.wait_serving()
    front_end = Service("tokenizer_service", "--engine", engine.service.address, "--workers", "4")
    try:
        await _until_all_serve(front_end.address)
        async with front_end_stub(front_end.address) as stub:
            expected = await reference_of(stub, SMALL, new_name("reference"))
        workers = psutil.Process(front_end.pid).children()
        workers[0].suspend()
        await asyncio.sleep(ENDED_SECONDS)
        found = await _ask_anew(front_end.address, expected, 40)
        report.add("silence: one worker of four stopped", found)
    finally:
        await engine.close()
        await front_end.close()


async def _until_all_serve(address: str) -> None:
    """Returns when connections, which go to any of the workers, find only those that serve."""
    async with asyncio.timeout(60):
        while {await health_of(address) for _ in range(_ANY_WORKER)} != {"SERVING"}:
            await asyncio.sleep(0.1)


async def _ask_anew(address: str, expected: Reference, number: int) -> list[str]:
    """One request over each of so many new connections."""

    async def one() -> list[str]:
        async with front_end_stub(address) as stub:
            call = Call(stub, SMALL, new_name("anew"), Manner(timeout=_ANSWER_SECONDS))
            await call.task
            return [*problems(call.record, expected, OK)]

    found = [each for each in await asyncio.gather(*(one() for _ in range(number))) if each]
    return [f"{len(found)} of {number} new connections", *found[0]] if found else []
