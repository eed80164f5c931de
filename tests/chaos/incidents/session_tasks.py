"""An error that nobody foresaw, in the tasks that read and write an engine's session."""

import asyncio

from chaos.callers.ask import generate, params
from chaos.callers.call import reference_of
from chaos.checks.limits import DETECTION_SECONDS
from chaos.checks.verdicts import Report
from chaos.incidents.incident import LOST, OK, all_problems, ask_often, new_name, records_of, start
from chaos.processes.site import front_end_stub, running_site

STREAM = generate("stream", 8, params(600))
SMALL = generate("small", 8, params(4))
_ANSWER_SECONDS = 3.0
_RECOVERY_SECONDS = 3.0


async def session_reader_fails(report: Report) -> None:
    """At the next message of the engine."""
    await _fails(report, "reader")


async def session_writer_fails(report: Report) -> None:
    """At the next command to the engine."""
    await _fails(report, "writer")


async def _fails(report: Report, task: str) -> None:
    """Streams end in their time, and the session is opened anew."""
    async with running_site(("--device", "cpu"), fake=True, real_flags=()) as site:
        await site.engines[0].service.ask("pace", 0.005)
        async with front_end_stub(site.front_end.address) as stub:
            small = await reference_of(stub, SMALL, new_name("reference"))
            expected = await reference_of(stub, STREAM, new_name("reference"))
            calls = start(stub, STREAM, 8)
            await asyncio.gather(*(call.until_pieces(2) for call in calls))
            await site.front_end.ask(f"break_session_{task}")
            few = await ask_often(stub, SMALL, 3, _ANSWER_SECONDS)
            report.add(f"session {task}: new requests", all_problems(few, small, LOST | OK))
            records = await records_of(calls, within=DETECTION_SECONDS)
            report.add(f"session {task}: streams", all_problems(records, expected, LOST | OK))
            await asyncio.sleep(_RECOVERY_SECONDS)
            records = await ask_often(stub, SMALL, 8, _ANSWER_SECONDS)
            report.add(f"session {task}: afterwards", all_problems(records, small))
