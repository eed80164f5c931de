"""Pipes: messages on their way, in order, each with a delay; and the Line that several share.

A line is one connection. It may be cut, so that nothing arrives in either direction and nobody is
told, and it may break, which both ends learn.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from random import Random

from simulation.virtual_loop import VirtualLoop

# Messages that wait to be read before the sender has to.
_LIMIT = 64


class End:
    """The last message of a pipe: what its reader gets from then on."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Line:
    """One connection between a front end and an engine."""

    def __init__(self, loop: VirtualLoop, rng: Random, max_delay: float) -> None:
        self.loop = loop
        self.context = Context()
        """Of what the network does, which no process can stop."""
        self.is_open = True
        self.is_cut = False
        self.tasks: dict[asyncio.Task[None], None] = {}
        """The calls that are served over it."""
        self.down: dict[Pipe, None] = {}
        """The pipes that lead to the front end."""
        self.up: list[Pipe] = []
        """Those that lead to the engine."""
        self._rng = rng
        self._max_delay = max_delay
        self._held: list[Callable[[], None]] = []

    def delay(self) -> float:
        """How long the next message takes."""
        return self._max_delay * self._rng.random() if self._max_delay else 0.0

    def hold(self, arrival: Callable[[], None]) -> None:
        """Keeps something until the line is whole again."""
        self._held.append(arrival)

    def heal(self) -> None:
        """Nothing is held any more; what was arrives now."""
        self.is_cut = False
        held, self._held = self._held, []
        for arrival in held:
            arrival()

    def shut_down_server(self) -> None:
        """The engine's side learns that the connection is gone."""
        if self.is_cut:
            self.hold(self.shut_down_server)
            return
        for task in list(self.tasks):
            task.cancel()

    def break_client(self, error: Exception, lose: bool) -> None:
        """The front end learns it, before what is on its way, or after."""
        if self.is_cut:
            self.hold(lambda: self.break_client(error, lose))
            return
        for pipe in list(self.down):
            pipe.fail(error, lose)
        self.down.clear()
        self.stop_writers()

    def stop_writers(self) -> None:
        """The front end cannot send anything any more."""
        for pipe in self.up:
            pipe.stop_writer()


class Pipe:
    """One direction of one call. Has one reader and one writer."""

    __slots__ = (
        "_arrived",
        "_error",
        "_flying",
        "_is_shut",
        "_last",
        "_line",
        "_loop",
        "_reader",
        "_writer",
    )

    def __init__(self, line: Line) -> None:
        self._line = line
        self._loop = line.loop
        self._flying: deque[bytes | End] = deque()
        self._arrived: deque[bytes | End] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._last = 0.0
        self._error: BaseException | None = None
        self._is_shut = False

    def put(self, item: bytes | End) -> None:
        """Sends a message, whatever room there is."""
        if self._error is not None:
            return
        now = self._loop.time()
        self._last = max(self._last, now + self._line.delay())
        self._flying.append(item)
        if self._last <= now and len(self._flying) == 1 and not self._line.is_cut:
            self._arrive()
        else:
            self._loop.call_at(self._last, self._arrive, context=self._line.context)

    async def send(self, item: bytes) -> None:
        """Sends a message once there is room. Raises what the pipe has failed with."""
        while len(self._flying) + len(self._arrived) >= _LIMIT:
            if self._error is not None or self._is_shut:
                break
            self._writer = self._loop.create_future()
            await self._writer
        if self._error is not None:
            raise self._error
        if self._is_shut:
            raise asyncio.InvalidStateError("RPC already finished.")
        self.put(item)

    async def receive(self) -> bytes:
        """The next message. Raises what the pipe has ended or failed with."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            self._reader = self._loop.create_future()
            await self._reader
        item = self._arrived.popleft()
        _wake(self._writer)
        if isinstance(item, End):
            self._error = item.error
            raise item.error
        return item

    def fail(self, error: BaseException, lose: bool = True) -> None:
        """Ends it at once. What is on its way arrives before, or is lost."""
        if self._error is not None:
            return
        self._error = error
        if lose:
            self._arrived.clear()
        else:
            self._arrived.extend(self._flying)
        self._flying.clear()
        _wake(self._reader)
        _wake(self._writer)

    def stop_writer(self) -> None:
        """Lets nothing be sent any more; what was sent arrives."""
        self._is_shut = True
        _wake(self._writer)

    def _arrive(self) -> None:
        if not self._flying:
            return
        if self._line.is_cut:
            self._line.hold(self._arrive)
            return
        self._arrived.append(self._flying.popleft())
        _wake(self._reader)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
