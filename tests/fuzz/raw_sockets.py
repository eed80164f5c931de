"""Bytes that are not even HTTP/2, or hardly, on a connection of their own."""

import asyncio
import random
from contextlib import suppress

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SECONDS = 1.0


def garbage(rng: random.Random) -> bytes:
    """Random bytes, an HTTP/1 request, or HTTP/2 whose frames are wrong."""
    kind = rng.random()
    if kind < 0.3:
        return rng.randbytes(rng.randint(1, 2000))
    if kind < 0.4:
        return b"POST /folovllm.v1.EngineService/Generate HTTP/1.1\r\n\r\n" + rng.randbytes(100)
    frames = b"".join(_frame(rng) for _ in range(rng.randint(1, 20)))
    return _PREFACE + rng.choice((_SETTINGS, b"")) + frames


def _frame(rng: random.Random) -> bytes:
    payload = rng.randbytes(rng.choice((0, 4, 5, 8, 100)))
    length = len(payload) if rng.random() < 0.9 else rng.randrange(2**24)
    stream = rng.choice((0, 1, 3, 2**31 - 1))
    head = length.to_bytes(3, "big") + bytes([rng.randrange(12), rng.randrange(256)])
    return head + stream.to_bytes(4, "big") + payload


async def send_garbage(address: str, rng: random.Random) -> None:
    """Sends some and leaves when the service has closed, or soon."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_SECONDS):
            writer.write(garbage(rng))
            await writer.drain()
            while await reader.read(65_536):
                pass
    writer.transport.abort()
