"""What incidents share: many requests at once, and what may become of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any

import grpc

from chaos.callers.ask import Ask, Reference
from chaos.callers.call import Call, Manner, Record
from chaos.checks.streams import problems
from chaos.checks.verdicts import Report

Incident = Callable[[Report], Awaitable[None]]
OK = frozenset({grpc.StatusCode.OK})
LOST = frozenset({grpc.StatusCode.UNAVAILABLE})
_WIDTH = 40
_names = count()


def new_name(label: str) -> str:
    """A request_id that no other request has."""
    return f"{label} {next(_names)}"


def start(stub: Any, ask: Ask, number: int, timeout: float = 60.0) -> list[Call]:
    """So many calls at once."""
    return [Call(stub, ask, new_name(ask.label), Manner(timeout=timeout)) for _ in range(number)]


async def records_of(calls: Sequence[Call], within: float) -> list[Record]:
    """Their records, when all have ended or after so many seconds."""
    await asyncio.wait([call.task for call in calls], timeout=within)
    for call in calls:
        call.task.cancel()
    records = [call.record for call in calls]
    still_open = [record for record in records if record.code is None]
    await asyncio.gather(*(call.task for call in calls), return_exceptions=True)
    for record in still_open:
        record.code = None
    return records


async def ask_often(stub: Any, ask: Ask, number: int, patience: float) -> list[Record]:
    """So many calls, some at a time, each with so many seconds."""
    places = asyncio.Semaphore(_WIDTH)

    async def one() -> Record:
        async with places:
            call = Call(stub, ask, new_name(ask.label), Manner(timeout=patience))
            await call.task
            return call.record

    return await asyncio.gather(*(one() for _ in range(number)))


def all_problems(
    records: Sequence[Record], reference: Reference, codes: frozenset[grpc.StatusCode] = OK
) -> list[str]:
    """Those of every record, the number of calls with any first."""
    found = [[*problems(record, reference, codes)] for record in records]
    wrong = [each for each in found if each]
    if not wrong:
        return []
    return [f"{len(wrong)} of {len(records)} calls", *(line for each in wrong for line in each)]
