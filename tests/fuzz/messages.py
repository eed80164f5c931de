"""Messages of every kind to every method of both services, beside callers who must not feel it."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from chaos.attacks.beside import Beside
from chaos.attacks.ground import Ground, running_ground
from chaos.attacks.verdicts import notes_beside, problems_beside
from chaos.checks.rest import at_rest
from chaos.checks.verdicts import Report
from chaos.processes.site import OWN_CONNECTION, Site, running_site
from fuzz.cases import case
from fuzz.sender import Sender

_NUM_CHILDREN = 2
_CHUNK = 2_500
"""Cases of one process, after which the logs are read."""
_CHUNK_SECONDS = 600.0
_HARMLESS_SECONDS = 20.0
_REST_SECONDS = 30.0
_TRACEBACK = "Traceback"


class Logs:
    """The tracebacks that services log."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._read: dict[str, int] = {}
        self.new()

    def new(self) -> list[str]:
        """What follows each that has come since the last time."""
        found = []
        for name, service in self._site.services.items():
            text = service.log_after(self._read.get(name, 0))
            self._read[name] = service.log_size
            found += [f"{name}: {part[-600:]}" for part in text.split(_TRACEBACK)[1:]]
        return found


async def fuzz_messages(report: Report, count: int, seed: int) -> None:
    """Sends so many, and judges answers, logs, and what others see."""
    async with running_ground(False, _HARMLESS_SECONDS, seed) as ground:
        site = ground.site
        before, ended, wrong = await at_rest(site), Counter[str](), list[str]()
        logs = Logs(site)
        tracebacks: list[str] = []
        async with Beside(site, ground.references, ground.canary, "fuzz") as beside:
            for numbers in _chunks(count):
                wrong += await _send(site, seed, numbers, ended)
                if new := logs.new():
                    tracebacks += [f"cases {numbers}", *new[:2]]
                    tracebacks += await _culprit(site, seed, numbers, logs)
                if dead := [n for n, s in site.services.items() if s.exit_code is not None]:
                    wrong.append(f"cases {numbers}: {', '.join(dead)} has ended")
                    break
                print(f"{numbers.stop} sent, {len(wrong)} wrong", flush=True)
        note = ", ".join(f"{number} {name}" for name, number in ended.most_common())
        report.add("fuzz: answers", wrong, note)
        report.add("fuzz: logs", tracebacks)
        _judge_beside(report, ground, beside)
        report.add("fuzz: at rest", await before.problems(site, _REST_SECONDS))


def _judge_beside(report: Report, ground: Ground, beside: Beside) -> None:
    notes = notes_beside(beside.seen, ground.harmless)
    for what, problems in problems_beside(beside.seen, ground.harmless).items():
        report.add(f"fuzz: {what}", problems, notes[what])


def _chunks(count: int) -> Iterator[range]:
    size = _CHUNK * _NUM_CHILDREN
    for first in range(0, count, size):
        yield range(first, min(first + size, count))


async def _send(site: Site, seed: int, numbers: range, ended: Counter[str]) -> list[str]:
    """Sends these from several processes; what was wrong, with the number of each case."""
    half = -(-len(numbers) // _NUM_CHILDREN)
    parts = [numbers[at : at + half] for at in range(0, len(numbers), half)]
    found = await asyncio.gather(*(_from_child(site, seed, part, ended) for part in parts))
    return [line for lines in found for line in lines]


async def _from_child(site: Site, seed: int, part: range, ended: Counter[str]) -> list[str]:
    addresses = (site.front_end.address, site.engines[0].service.address)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fuzz.child", str(seed), str(part.start), str(part.stop)),
        *addresses,
        stdout=PIPE,
    )
    try:
        async with asyncio.timeout(_CHUNK_SECONDS):
            said, _ = await child.communicate()
    except TimeoutError:
        child.kill()
        return [f"cases {part} hang"]
    if child.returncode:
        return [f"cases {part}: the sender ended with {child.returncode}"]
    answer = json.loads(said)
    ended.update(answer["ended"])
    return [f"case {number}: {problem}" for number, problem in answer["complaints"]]


@asynccontextmanager
async def _sender(site: Site, seed: int) -> AsyncIterator[Sender]:
    """One in this process."""
    addresses = {"front end": site.front_end.address, "engine": site.engines[0].service.address}
    async with AsyncExitStack() as stack:
        channels = {
            target: await stack.enter_async_context(
                grpc.aio.insecure_channel(address, OWN_CONNECTION)
            )
            for target, address in addresses.items()
        }
        yield Sender(channels, seed)


async def replay(report: Report, seed: int, number: int) -> None:
    """Sends one case again, alone, and prints what it is and what came."""
    async with running_site(()) as site, _sender(site, seed) as sender:
        logs = Logs(site)
        print(case(seed, number))
        print(await sender.send(number))
        complaints = [problem for _, problem in sender.complaints]
        report.add(f"fuzz: case {number} of seed {seed}", [*complaints, *logs.new()])


async def _culprit(site: Site, seed: int, numbers: range, logs: Logs) -> list[str]:
    """The first case of these that makes a service log a traceback again, alone."""
    async with _sender(site, seed) as sender:
        for number in numbers:
            await sender.send(number)
            if logs.new():
                return [f"case {number}: {case(seed, number)}"]
    return ["none of them alone"]
