"""ActiveCalls: the calls that a draining server must let finish."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from folovllm.errors import UnavailableError


class ActiveCalls:
    """Counts running calls and refuses new streams while draining. Belongs to one event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def entered(self, *, stream: bool) -> Iterator[None]:
        """Counts one call while it runs. Raises UnavailableError for a stream while draining.

        Other calls are short, or belong to streams that still run, as Abort does.
        """
        if stream and self._draining:
            raise UnavailableError("the server is shutting down")
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._idle.set()

    async def drain(self, grace_period: float) -> bool:
        """Refuses new streams and waits for what runs; False if the seconds ran out."""
        self._draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), grace_period)
        except TimeoutError:
            return False
        return True
