"""Beside: what callers who do no harm see during an attack, and what services take meanwhile."""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from chaos.attacks.footprint import Footprint
from chaos.callers.ask import Ask, Reference
from chaos.callers.call import Call, Manner, Record, gaps
from chaos.checks.canary import Canary, HealthProbe
from chaos.checks.streams import problems
from chaos.incidents.incident import OK
from chaos.processes.site import Site, front_end_stub

_NUM_INNOCENTS = 3
_INNOCENT_PAUSE = 0.05
_TIMEOUT = 60.0
_SAMPLE_SECONDS = 0.25
MAX_MEMORY = 3 * 2**30
"""At which an attack has done enough: the harness stops it, to spare the machine."""


@dataclass(slots=True)
class Seen:
    """What was seen. Times are in seconds."""

    gap: float = 0.0
    """The longest between two messages of the canary's streams."""
    usual_gap: float = 0.0
    """The median."""
    start: float = 0.0
    """The longest that a stream of the canary waited for its first message."""
    health: dict[str, float] = field(default_factory=dict)
    """The longest wait for an answer about health, by service."""
    unhealthy: list[str] = field(default_factory=list)
    """Answers about health that were not SERVING."""
    canary: list[str] = field(default_factory=list)
    """What was wrong with its streams."""
    num_innocent: int = 0
    refused: list[str] = field(default_factory=list)
    """What was wrong with the answers to others."""
    wait: float = 0.0
    """The longest that another caller waited for an answer's end."""
    peak: dict[str, int] = field(default_factory=dict)
    """Bytes of memory at the most, by service, its child processes included."""


class Beside:
    """Watches a site as long as it is entered; then `seen` has what it saw."""

    def __init__(
        self, site: Site, references: Mapping[Ask, Reference], canary: Ask, name: str
    ) -> None:
        self.seen = Seen()
        self.too_much = asyncio.Event()
        """Set when the services take more memory than may be."""
        self._site, self._references, self._name = site, references, name
        self._ask = canary
        self._records: list[Record] = []
        self._stopping = False
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Beside":
        stubs = [
            await self._stack.enter_async_context(front_end_stub(self._site.front_end.address))
            for _ in range(2)
        ]
        expected = self._references[self._ask]
        self._canary = Canary(stubs[0], self._ask, expected, f"canary of {self._name}")
        self._probes = {
            name: HealthProbe(service.address) for name, service in self._site.services.items()
        }
        others = [ask for ask in self._references if ask is not self._ask]
        self._tasks = [
            asyncio.create_task(self._innocent(stubs[1], others, number))
            for number in range(_NUM_INNOCENTS)
        ]
        self._tasks.append(asyncio.create_task(self._watch_memory()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stopping = True
        for probe in self._probes.values():
            await probe.stop()
        self.seen.canary = await self._canary.stop(now=True)
        await asyncio.gather(*self._tasks)
        await self._stack.aclose()
        self._sum_up()

    async def until_running(self) -> None:
        """Returns when the canary's first stream has begun."""
        await self._canary.until_running()

    def _sum_up(self) -> None:
        seen, records = self.seen, self._canary.records
        now = time.monotonic()
        pauses = [gap for record in records for gap in gaps(record)]
        seen.usual_gap = statistics.median(pauses or [0.0])
        # The last stream is cut off, perhaps while it waits for a message.
        cut = [(record.ended or now) - record.pieces[-1].at for record in records if record.pieces]
        seen.gap = max([*pauses, *cut], default=0.0)
        firsts = [(each.first_at or each.ended or now) - each.started for each in records]
        seen.start = max(firsts, default=0.0)
        for name, probe in self._probes.items():
            seen.health[name] = probe.longest
            seen.unhealthy += [
                f"{name} says {said}" for _, said, _ in probe.answers if said != "SERVING"
            ]
        seen.num_innocent = len(self._records)
        for record in self._records:
            assert record.ended is not None
            seen.wait = max(seen.wait, record.ended - record.started)
            seen.refused += problems(record, self._references[record.ask], OK)

    async def _innocent(self, stub: Any, asks: Sequence[Ask], first: int) -> None:
        number = first
        while not self._stopping:
            ask = asks[number % len(asks)]
            call = Call(stub, ask, f"innocent {number} of {self._name}", Manner(timeout=_TIMEOUT))
            self._records.append(call.record)
            await call.task
            number += _NUM_INNOCENTS
            await asyncio.sleep(_INNOCENT_PAUSE)

    async def _watch_memory(self) -> None:
        footprint = Footprint(self._site)
        while not self._stopping:
            for name, size in footprint.memory().items():
                self.seen.peak[name] = max(size, self.seen.peak.get(name, 0))
            if sum(self.seen.peak.values()) > MAX_MEMORY:
                self.too_much.set()
            await asyncio.sleep(_SAMPLE_SECONDS)


async def watched(beside: Beside, seconds: float) -> bool:
    """Watches for so long; False if the services took too much memory before."""
    try:
        async with asyncio.timeout(seconds):
            await beside.too_much.wait()
        return False
    except TimeoutError:
        return True
