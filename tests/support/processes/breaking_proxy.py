"""BreakingProxy: a TCP proxy in this process that breaks connections after so many bytes."""

import asyncio
import socket
import struct
from contextlib import suppress

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class BreakingProxy:
    """Listens on the loopback and connects to `target`, HOST:PORT. Belongs to one event loop."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.limits: list[int] = []
        """After how many bytes from the target each next connection is reset; then none is."""
        self.num_broken = 0
        self.address = ""

    async def __aenter__(self) -> "BreakingProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limit = self.limits.pop(0) if self.limits else None
        host, _, port = self._target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        up = asyncio.create_task(_carry(reader, far_writer, None))
        try:
            if await _carry(far_reader, writer, limit):
                self.num_broken += 1
                _reset(writer)
                _reset(far_writer)
        finally:
            up.cancel()
            writer.close()
            far_writer.close()


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None
) -> bool:
    """Moves one direction to its end, or to the limit, which is then the result."""
    with suppress(OSError):
        while piece := await reader.read(65536 if limit is None else min(65536, limit)):
            writer.write(piece)
            await writer.drain()
            if limit is not None:
                limit -= len(piece)
                if not limit:
                    return True
    return False


def _reset(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    with suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
