"""The proxy does what it says, on real sockets."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from chaos.processes.proxy import Proxy


class Echo:
    """Sends back what comes, and "end" at its end; "die" makes it reset the connection."""

    def __init__(self) -> None:
        self.handlers: list[asyncio.Task[None]] = []

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handlers.append(asyncio.ensure_future(self._handle(reader, writer)))

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while (piece := await reader.read(1024)) not in (b"", b"die"):
                writer.write(piece)
                await writer.drain()
            if piece:
                no_wait = struct.pack("ii", 1, 0)
                found = writer.get_extra_info("socket")
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_wait)
                writer.transport.abort()
            else:
                writer.write(b"end")
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Proxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to an echo through a proxy, with one answer behind it."""
    echo = Echo()
    server = await echo.start()
    proxy = Proxy(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        yield proxy, reader, writer
    finally:
        writer.close()
        await proxy.close()
        server.close()
        await asyncio.gather(*echo.handlers)


async def test_what_is_dropped_is_lost_and_the_connection_stays() -> None:
    async with connected() as (proxy, reader, writer):
        proxy.drop("up")
        writer.write(b"lost")
        await writer.drain()
        proxy.connections[0].half_close("down")
        assert await reader.read() == b""


async def test_what_is_stopped_comes_later() -> None:
    async with connected() as (proxy, reader, writer):
        up = proxy.connections[0].flows["up"]
        up.stop()
        writer.write(b"later")
        answer = asyncio.ensure_future(reader.readexactly(5))
        _, waiting = await asyncio.wait([answer], timeout=0.05)
        assert waiting
        up.go_on()
        assert await answer == b"later"


async def test_a_delay_is_of_one_direction() -> None:
    async with connected() as (proxy, reader, writer):
        proxy.connections[0].flows["down"].delay = 0.05
        loop = asyncio.get_running_loop()
        started = loop.time()
        writer.write(b"slow")
        assert await reader.readexactly(4) == b"slow"
        assert loop.time() - started >= 0.05


async def test_a_half_close_lets_the_other_direction_go_on() -> None:
    async with connected() as (_, reader, writer):
        writer.write_eof()
        assert await reader.read() == b"end"


async def test_a_reset_is_one() -> None:
    async with connected() as (proxy, reader, _):
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_a_reset_of_one_side_reaches_the_other() -> None:
    async with connected() as (_, reader, writer):
        writer.write(b"die")
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_it_refuses_as_if_nothing_were_there_and_comes_back() -> None:
    async with connected() as (proxy, _, _):
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await proxy.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"again")
        assert await reader.readexactly(5) == b"again"
        writer.close()
