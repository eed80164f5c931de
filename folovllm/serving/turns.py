"""Turns: long work on an event loop, in pieces between which everything else goes on."""

import asyncio
from collections.abc import Generator
from typing import TypeVar

R = TypeVar("R")

MAX_ENTRIES = 2048
"""Log-probabilities that are converted without a pause, which takes a few milliseconds."""
MAX_IDS = 16_384
"""Token ids that are copied without a pause, which takes about one."""
LONG_BYTES = 16 * 1024
"""A message of more bytes is long work, for which to take a turn."""


class Turns:
    """Lets one piece of long work run in each round of the event loop, in order of arrival.

    So the loop is held up by one piece at most, however many callers have long work. What is
    short takes no turn. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def take(self) -> None:
        """Returns when a piece of long work may run, which must then follow without waiting."""
        async with self._lock:
            await asyncio.sleep(0)

    async def run(self, steps: Generator[None, None, R]) -> R:
        """What the steps return. They yield where they may pause, and never if they are short."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: R = end.value
                return result
            await self.take()
