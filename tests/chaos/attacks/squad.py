"""Squad: the attackers of one attack, as the harness starts and stops them."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from types import TracebackType

from chaos.processes.site import Site

SIZE = 2
_READY_SECONDS, _END_SECONDS = 90.0, 30.0


class Squad:
    """Processes that are ready to attack when it is entered, and have ended when it is left."""

    def __init__(self, site: Site, attack: str, seed: int) -> None:
        self.ended: Counter[str] = Counter()
        """After `stop`: how many calls ended with each status."""
        self.num_open = 0
        """After `stop`: how many calls ran until then."""
        self.complaints: list[str] = []
        """After `stop`: what attackers printed of answers that must not be."""
        self._site, self._attack, self._seed = site, attack, seed
        self._processes: list[Process] = []

    async def __aenter__(self) -> "Squad":
        addresses = (self._site.front_end.address, self._site.engines[0].service.address)
        for number in range(SIZE):
            seed = f"{self._seed}.{number}"
            self._processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "chaos.attacks.attacker", self._attack, seed),
                    *addresses,
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=PIPE,
                )
            )
        async with asyncio.timeout(_READY_SECONDS):
            for process in self._processes:
                assert process.stdout is not None
                if await process.stdout.readline() != b"ready\n":
                    _, errors = await process.communicate()
                    raise AssertionError(f"an attacker cannot begin: {errors.decode()[-500:]}")
        return self

    def go(self) -> None:
        """Begins the attack."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")

    async def stop(self) -> None:
        """Ends it."""
        found = await asyncio.gather(*(_end(process) for process in self._processes))
        for ended, num_open, errors in found:
            self.ended.update(ended)
            self.num_open += num_open
            self.complaints += errors

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _end(process: Process) -> tuple[dict[str, int], int, list[str]]:
    """How its calls ended, how many had not, and what it complained of."""
    try:
        async with asyncio.timeout(_END_SECONDS):
            said, errors = await process.communicate(b"")
    except TimeoutError:
        process.kill()
        return {}, 0, ["an attacker did not end in time"]
    lines = errors.decode(errors="replace").splitlines()
    summary = said.decode().splitlines()
    if not summary:
        return {}, 0, ["an attacker broke", *lines[-3:]]
    counts = json.loads(summary[-1])
    return counts["ended"], counts["open"], lines
