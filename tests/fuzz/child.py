"""Sends cases from a process of its own: `python -m fuzz.child SEED FIRST LAST FRONT_END ENGINE`.

At nice 19, as a caller on another host. It prints as JSON how the calls ended, and what was wrong.
"""

import asyncio
import json
import os
import random
import sys
from contextlib import AsyncExitStack

import grpc

from chaos.processes.site import OWN_CONNECTION
from fuzz.raw_sockets import send_garbage
from fuzz.sender import Sender

_WIDTH = 24
_CASES_A_GARBAGE = 50
"""Connections are slower than calls."""


def main() -> None:
    """Reads the command line and sends."""
    seed, first, last = map(int, sys.argv[1:4])
    os.nice(19)
    asyncio.run(_send(seed, range(first, last), sys.argv[4:]))


async def _send(seed: int, numbers: range, addresses: list[str]) -> None:
    async with AsyncExitStack() as stack:
        channels = {
            target: await stack.enter_async_context(
                grpc.aio.insecure_channel(address, OWN_CONNECTION)
            )
            for target, address in zip(("front end", "engine"), addresses, strict=True)
        }
        sender = Sender(channels, seed)
        await asyncio.gather(
            sender.send_all(iter(numbers), _WIDTH), _send_garbage(seed, numbers, addresses)
        )
    print(json.dumps({"ended": sender.ended, "complaints": sender.complaints}))


async def _send_garbage(seed: int, numbers: range, addresses: list[str]) -> None:
    for number in numbers[::_CASES_A_GARBAGE]:
        rng = random.Random(f"garbage {seed} {number}")
        await send_garbage(rng.choice(addresses), rng)


if __name__ == "__main__":
    main()
