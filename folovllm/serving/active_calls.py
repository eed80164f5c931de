"""ActiveCalls: the calls that a draining server must let finish; and which one a task serves.

Every call counts, except marked ones that carry many requests; there each request counts.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from folovllm.errors import UnavailableError

Method = TypeVar("Method", bound=Callable[..., Any])

_COUNTS_ITS_REQUESTS = "_counts_its_requests"
_LASTS_LIKE_A_STREAM = "_lasts_like_a_stream"


class ActiveCalls:
    """Counts running calls and refuses new streams while draining. Belongs to one event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def entered(self, *, stream: bool) -> Iterator[None]:
        """Counts one call while it runs. Raises UnavailableError for a stream while draining.

        Other calls are short, or concern streams that still run, as Abort does.
        """
        if stream:
            self.refuse_while_draining()
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._idle.set()

    def refuse_while_draining(self) -> None:
        """Raises UnavailableError while the server drains."""
        if self._draining.is_set():
            raise UnavailableError("the server is shutting down")

    async def drain(self, grace_period: float) -> bool:
        """Refuses new streams and waits for what runs; False if the period is over before."""
        self._draining.set()
        try:
            await asyncio.wait_for(self._idle.wait(), grace_period)
        except TimeoutError:
            return False
        return True

    async def draining(self) -> None:
        """Returns when a drain has begun."""
        await self._draining.wait()

    async def drained(self) -> None:
        """Returns when a drain has begun and everything that it waits for has ended."""
        await self._draining.wait()
        await self._idle.wait()


def counts_its_requests(method: Method) -> Method:
    """Marks a servicer's method whose calls may last as long as the server does.

    A drain does not wait for such a call, and its messages are not checked for it: the call counts
    each request that it carries, and checks its bounds, so that one of them cannot end the others.
    """
    setattr(method, _COUNTS_ITS_REQUESTS, True)
    return method


def is_counted(method: object) -> bool:
    """Whether calls of a servicer's method count, as they do unless it is marked."""
    return not getattr(method, _COUNTS_ITS_REQUESTS, False)


def lasts_like_a_stream(method: Method) -> Method:
    """Marks a servicer's method that does what a stream does, with one answer at its end.

    A draining server refuses new calls of it too.
    """
    setattr(method, _LASTS_LIKE_A_STREAM, True)
    return method


def is_like_a_stream(method: object) -> bool:
    """Whether a servicer's method is marked as one that lasts like a stream."""
    return getattr(method, _LASTS_LIKE_A_STREAM, False)


@dataclass(frozen=True, slots=True)
class CurrentCall:
    """What is known of a call from its beginning.

    When a cancelled call has ended, gRPC has freed what the call's context points to, and using it
    would crash the process. So nobody asks the context after anything was awaited.
    """

    peer: str = ""
    """The connection that it came on."""
    deadline: float | None = None
    """By the time of the event loop that serves it."""

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None if there is none."""
        return (
            None
            if self.deadline is None
            else max(0.0, self.deadline - asyncio.get_running_loop().time())
        )


current_call: ContextVar[CurrentCall] = ContextVar("current_call", default=CurrentCall())  # noqa: B039
"""Set for the task of every call of our services."""
