"""Canary and HealthProbe: what goes on beside a fault, which must not feel it."""

import asyncio
import time
from itertools import count
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chaos.callers.ask import Ask, Reference
from chaos.callers.call import Call, Manner, Record, gaps
from chaos.checks.streams import problems
from chaos.processes.site import OWN_CONNECTION

_PROBE_INTERVAL, _PROBE_TIMEOUT = 0.1, 5.0
_OK = frozenset({grpc.StatusCode.OK})
_CUT = _OK | {grpc.StatusCode.CANCELLED}


class Canary:
    """One greedy stream after the other, from its start until `stop`."""

    def __init__(self, stub: Any, ask: Ask, reference: Reference, name: str) -> None:
        self.records: list[Record] = []
        self._stub, self._ask, self._reference, self._name = stub, ask, reference, name
        self._stopping = False
        self._call: Call | None = None
        self._task = asyncio.create_task(self._run(), name=name)

    async def until_running(self) -> None:
        """Returns when a stream has begun."""
        while not any(record.pieces for record in self.records):
            await asyncio.sleep(0.01)

    async def stop(self, now: bool = False) -> list[str]:
        """Ends it after its present stream, or `now`, within that; what was wrong."""
        self._stopping = True
        cut = self._call if now else None
        if cut is not None:
            cut.cancel()
        await self._task
        return [
            problem
            for each in self.records
            for problem in problems(
                each, self._reference, _CUT if cut is not None and each is cut.record else _OK
            )
        ]

    @property
    def longest_gap(self) -> float:
        """Seconds between two messages, or from the start of a stream to its first."""
        waits = [gap for record in self.records for gap in gaps(record)]
        firsts = [each.first_at - each.started for each in self.records if each.first_at]
        return max([*waits, *firsts], default=0.0)

    @property
    def num_messages(self) -> int:
        """Of all streams."""
        return sum(len(record.pieces) for record in self.records)

    async def _run(self) -> None:
        for number in count():
            if self._stopping:
                return
            name = f"{self._name}-{number}"
            self._call = call = Call(self._stub, self._ask, name, Manner(timeout=60))
            self.records.append(call.record)
            await call.task
            if call.record.code is not grpc.StatusCode.OK:
                await asyncio.sleep(0.1)  # what failed at once would fail a thousand times


class HealthProbe:
    """Asks a service for its health ten times a second."""

    def __init__(self, address: str) -> None:
        self.answers: list[tuple[float, str, float]] = []
        """When it was asked, what it said or why it did not, and after how many seconds."""
        self._address = address
        self._task = asyncio.create_task(self._run(), name=f"health of {address}")

    async def stop(self) -> None:
        """Ends it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def longest(self) -> float:
        """The longest wait for an answer of either kind."""
        return max((seconds for _, _, seconds in self.answers), default=0.0)

    def said_after(self, moment: float, status: str) -> float | None:
        """Seconds from a moment until the first answer that is `status`; None if there is none."""
        found = (at + took - moment for at, said, took in self.answers if said == status)
        return next((seconds for seconds in found if seconds >= 0), None)

    async def _run(self) -> None:
        async with grpc.aio.insecure_channel(self._address, OWN_CONNECTION) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                asked = time.monotonic()
                said = await _health(stub)
                self.answers.append((asked, said, time.monotonic() - asked))
                await asyncio.sleep(_PROBE_INTERVAL)


async def health_of(address: str) -> str:
    """SERVING, NOT_SERVING, or the code of a call that failed."""
    async with grpc.aio.insecure_channel(address, OWN_CONNECTION) as channel:
        return await _health(health_pb2_grpc.HealthStub(channel))


async def _health(stub: Any) -> str:
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_TIMEOUT)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name
