"""Proxy: a TCP proxy in this process that can do to connections what networks do.

Each connection has two directions, "up" from the one who connects, and "down". A fault is set for
the whole proxy, for one connection or for one direction of it:

    delay       seconds that each piece waits
    throttle    bytes a second
    stopped     nothing is read any more until it is not: the sender's window fills up
    dropped     what comes is read and thrown away, as packets that a firewall drops; nobody is told

`half_close`, `reset` and `refuse` happen at once. Belongs to one event loop.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["up", "down"]
_PIECE = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Flow:
    """One direction of a connection, or of all of them that begin later."""

    delay: float = 0.0
    throttle: float | None = None
    dropped: bool = False
    running: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear while it is stopped."""

    def __post_init__(self) -> None:
        self.running.set()

    def stop(self) -> None:
        """Reads nothing more, until `go_on`."""
        self.running.clear()

    def go_on(self) -> None:
        """Ends what `stop` began."""
        self.running.set()


class Connection:
    """One connection through the proxy."""

    def __init__(
        self, near: asyncio.StreamWriter, far: asyncio.StreamWriter, up: Flow, down: Flow
    ) -> None:
        self._near, self._far = near, far
        self.flows: dict[Direction, Flow] = {"up": up, "down": down}

    def half_close(self, direction: Direction) -> None:
        """Sends the end of one direction, while the other goes on."""
        writer = self._far if direction == "up" else self._near
        with suppress(OSError):
            writer.write_eof()

    def reset(self) -> None:
        """Ends both sides with RST."""
        for writer in (self._near, self._far):
            found = writer.get_extra_info("socket")
            with suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()


class Proxy:
    """Listens on `port` of the loopback and connects to `target`, HOST:PORT."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepted: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections: list[Connection] = []
        self.defaults: dict[Direction, Flow] = {"up": Flow(), "down": Flow()}
        """What connections begin with."""

    @property
    def address(self) -> str:
        """Where callers connect."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Begins to listen, also after `refuse`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Ends everything."""
        if self._server is not None:
            self.refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._accepted, return_exceptions=True)

    def refuse(self) -> None:
        """Listens no more, and resets all connections, as if nothing were there."""
        assert self._server is not None
        self._server.close()
        self.reset()

    def flows(self, *directions: Direction) -> Iterator[Flow]:
        """Those of all connections, and of those to come."""
        for owner in (self.defaults, *(each.flows for each in self.connections)):
            for direction in directions or ("up", "down"):
                yield owner[direction]

    def drop(self, *directions: Direction) -> None:
        """Drops what comes, in all connections and in those to come."""
        for flow in self.flows(*directions):
            flow.dropped = True

    def reset(self) -> None:
        """Resets all connections."""
        for connection in list(self.connections):
            connection.reset()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="proxied connection")
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        up, down = (_copy(self.defaults[direction]) for direction in ("up", "down"))
        connection = Connection(writer, far_writer, up, down)
        self.connections.append(connection)
        copies = [
            asyncio.ensure_future(_carry(reader, far_writer, up)),
            asyncio.ensure_future(_carry(far_reader, writer, down)),
        ]
        self._tasks.update(copies)
        try:
            await asyncio.gather(*copies)
        except OSError:
            if not (up.dropped or down.dropped):
                connection.reset()  # as one side has done
        except asyncio.CancelledError:
            pass  # the proxy is closed
        finally:
            for copy in copies:
                copy.cancel()
            self._tasks.difference_update(copies)
            for each in (writer, far_writer):
                each.close()
            for each in (writer, far_writer):
                with suppress(OSError):
                    await each.wait_closed()
            self.connections.remove(connection)


def _copy(flow: Flow) -> Flow:
    copied = Flow(flow.delay, flow.throttle, flow.dropped)
    if not flow.running.is_set():
        copied.stop()
    return copied


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: Flow) -> None:
    """Moves one direction until its end, which it passes on. Raises OSError."""
    while piece := await reader.read(_PIECE):
        await flow.running.wait()
        if flow.delay:
            await asyncio.sleep(flow.delay)
        if flow.throttle is not None:
            await asyncio.sleep(len(piece) / flow.throttle)
        if not flow.dropped:
            writer.write(piece)
            await writer.drain()
    if not flow.dropped:
        writer.write_eof()
