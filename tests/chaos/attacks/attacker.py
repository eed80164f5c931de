"""The process of an attacker: `python -m chaos.attacks.attacker ATTACK SEED FRONT_END ENGINE`.

It stands for a caller on another host, whose work takes no time from that of the services: it runs
at nice 19, and makes what it sends before it begins. It says `ready`, begins at a line of its
input, ends with its input, and then says as JSON how its calls have ended.
"""

import asyncio
import json
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import grpc

from chaos.attacks.catalogue import attack_of
from chaos.attacks.shot import Attack, Shot
from chaos.checks.statuses import status_of
from chaos.processes.site import OWN_CONNECTION

_NEVER = ("INTERNAL", "UNKNOWN")
_MAX_COMPLAINTS = 3
_MAX_BYTES = 48 * 2**20
_PAUSE = 0.02
"""Of a caller who was refused: without it they would measure how fast a service refuses."""


def main() -> None:
    """Reads the command line and attacks."""
    name, seed, *addresses = sys.argv[1:]
    os.nice(19)
    rng = random.Random(f"{seed} {name}")
    attack = attack_of(name)
    magazine = _filled(attack, rng)
    parent = next(attack.parent(rng)) if attack.parent is not None else None
    print("ready", flush=True)
    sys.stdin.readline()
    attacker = Attacker(attack, magazine, parent)
    threading.Thread(target=attacker.leave_with_input, daemon=True).start()
    asyncio.run(attacker.run(*addresses))


def _filled(attack: Attack, rng: random.Random) -> list[Shot]:
    """As many shots as the attack wants and memory allows, at least one."""
    found: list[Shot] = []
    size = 0
    for each in islice(attack.shots(rng), attack.magazine):
        found.append(each)
        size += len(each.data)
        if size > _MAX_BYTES:
            break
    return found


class Attacker:
    """Sends the shots over and over."""

    def __init__(self, attack: Attack, magazine: Sequence[Shot], parent: Shot | None) -> None:
        self.ended: Counter[str] = Counter()
        """Calls, by their status."""
        self.num_open = 0
        """Calls that run; in the end, those that it gave up then."""
        self._attack, self._magazine, self._parent = attack, magazine, parent
        self._channels: dict[str, Any] = {}
        self._next = 0

    async def run(self, front_end: str, engine: str) -> None:
        """Attacks both services, over a connection to each."""
        addresses = {"front end": front_end, "engine": engine}
        for target in {each.target for each in self._magazine}:
            self._channels[target] = grpc.aio.insecure_channel(addresses[target], OWN_CONNECTION)
        callers = [self._bursts()] if self._attack.burst else []
        callers = callers or [self._caller() for _ in range(self._attack.width)]
        if self._parent is not None:
            callers.append(self._keep(self._parent))
        await asyncio.gather(*callers)

    def leave_with_input(self) -> None:
        """Ends the process with its input, as if it were killed, whatever its calls do."""
        sys.stdin.read()
        print(json.dumps({"ended": self.ended, "open": self.num_open}), flush=True)
        os._exit(0)

    async def _caller(self) -> None:
        while True:
            await self._send(self._take())

    async def _bursts(self) -> None:
        while True:
            await asyncio.gather(*(self._send(self._take()) for _ in range(self._attack.width)))

    async def _keep(self, parent: Shot) -> None:
        while True:
            await self._send(parent)

    def _take(self) -> Shot:
        self._next += 1
        return self._magazine[self._next % len(self._magazine)]

    async def _send(self, each: Shot) -> None:
        """Sends it and takes the answer."""
        call = each.start(self._channels[each.target])
        self.num_open += 1
        try:
            status, details = "OK", ""
            try:
                await _finish(call, each)
            except grpc.aio.AioRpcError as error:
                status, details = status_of(error), error.details() or ""
            self.ended[status] += 1
            self.num_open -= 1
            if status in _NEVER and self.ended[status] <= _MAX_COMPLAINTS:
                print(f"{each.method}: {status}: {details[:300]}", file=sys.stderr, flush=True)
            if status != "OK" and not self._attack.burst:
                await asyncio.sleep(_PAUSE)
        finally:
            call.cancel()


async def _finish(call: Any, each: Shot) -> None:
    if each.descriptor.client_streaming:
        await call.write(each.data)
    if each.descriptor.server_streaming:
        async for _ in call:
            pass
    else:
        await call


if __name__ == "__main__":
    main()
