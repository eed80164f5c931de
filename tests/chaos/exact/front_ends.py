"""Front ends: one of two is killed, and its callers go on at the other by themselves.

What they send to is one address, behind which another front end then stands, as behind a balancer.
"""

import asyncio
import random
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from chaos.checks.rest import at_rest
from chaos.checks.verdicts import Report
from chaos.exact.asks import Ask
from chaos.exact.cohort import Cohort
from chaos.exact.round import THREE_ENGINES, Ground, Options, ground
from chaos.exact.stream import Stream
from chaos.processes.proxy import Proxy
from chaos.processes.service import Service
from folovllm import AsyncClient
from folovllm.v1 import tokenizer_service_pb2 as messages

_WIDTH = 24
_TIMEOUT = 900.0


async def front_ends(report: Report, options: Options) -> None:
    """As many rounds as it takes to cut so many streams."""
    async with ground(options, *THREE_ENGINES[:2]) as found, _door(found, options) as door:
        rng = random.Random(f"front ends {options.seed}")
        await asyncio.gather(*map(found.until_ready, door.services))
        found.rest = await at_rest(found.site)
        num_cut = 0
        while num_cut < options.cuts and not found.is_hopeless:
            num_cut += await _round(found, door, rng)
        await found.report(report, "front ends", 0.0, None)
        few = [f"it does not count: {num_cut} were cut, and {options.cuts} are needed"]
        enough = num_cut >= options.cuts
        report.add("exact: front ends: load", [] if enough else few, f"{num_cut} streams cut")


async def _round(found: Ground, door: "Door", rng: random.Random) -> int:
    """How many streams were cut."""
    cohort = Cohort(found.site)
    async with AsyncClient(door.proxy.address) as client:
        for each in found.asks(_WIDTH):
            if each.method not in ("Generate", "Chat"):
                continue  # whole answers are not resumed
            name = f"front.{each.number}"
            call = _ClientCall(client, each, name)
            cohort.streams[name] = Stream(each, name, each.method, call.begin)
        await cohort.until_token(rng)
        cut = [each for each in cohort.streams.values() if not each.received.is_over]
        door.swap()
        replacing = asyncio.create_task(door.replace())
        await found.judge(cohort)
        await replacing
    return len(cut)


class _ClientCall:
    """A call of folovllm_client, as the messages that a stub would have given."""

    def __init__(self, client: AsyncClient, asked: Ask, name: str) -> None:
        self._client, self._ask, self._name = client, asked, name

    def begin(self) -> AsyncGenerator[Any, None]:
        """Its messages; raises what a stub would."""
        message = self._ask.named(self._name)
        if isinstance(message, messages.ChatRequest):
            return self._read(self._client.send_chat(message, _TIMEOUT))
        return self._read(self._client.send(message, _TIMEOUT))

    async def _read(self, outputs: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        async for output in outputs:
            yield output.to_proto()


class Door:
    """The address, and two front ends of which one stands behind it."""

    def __init__(self, flags: Sequence[str]) -> None:
        self._flags = flags
        self.services = [self._start(), self._start()]
        self.proxy = Proxy(self.services[0].address)

    async def wait_serving(self) -> None:
        """Returns when both do."""
        await self.proxy.start()
        await asyncio.gather(*(each.wait_serving() for each in self.services))

    def swap(self) -> None:
        """Kills the front end behind the address, where the other one stands from now on."""
        killed, other = self.services
        self.proxy.target = other.address
        killed.signal(signal.SIGKILL)
        self.services.reverse()

    async def replace(self) -> None:
        """Starts another one in the place of the one that was killed."""
        killed = self.services[1]
        await killed.close()
        self.services[1] = self._start(killed.port)
        await self.services[1].wait_serving()

    async def close(self) -> None:
        """Ends both."""
        await self.proxy.close()
        await asyncio.gather(*(each.close() for each in self.services))

    def _start(self, port: int | None = None) -> Service:
        return Service("tokenizer_service", *self._flags, port=port)


@asynccontextmanager
async def _door(found: Ground, options: Options) -> AsyncIterator[Door]:
    engines = [flag for each in found.site.engines for flag in ("--engine", each.address)]
    door = Door((*engines, *options.model_flags))
    try:
        await door.wait_serving()
        yield door
    finally:
        await door.close()
