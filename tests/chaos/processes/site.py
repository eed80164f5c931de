"""Site: a front end, the engines behind it, and a proxy on every connection between processes.

callers ─▶ caller_proxy ─▶ front end ─▶ engine.proxy ─▶ engine
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc

from chaos.processes.proxy import Proxy
from chaos.processes.service import Service
from folovllm.serving.channel import CLIENT_OPTIONS
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, tokenizer_service_pb2_grpc
from support.processes.service_processes import ENGINE_FLAGS

OWN_CONNECTION = [*CLIENT_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
"""Else channels to one address share their connection."""


class Engine:
    """An engine service, and the proxy by which the front end reaches it."""

    def __init__(
        self,
        flags: Sequence[str] = (),
        fake: bool = False,
        service: Service | None = None,
        is_proxied: bool = True,
    ) -> None:
        """Starts a service with these flags, unless one is given."""
        self._flags = flags
        self._fake = fake
        self._is_proxied = is_proxied
        self.service = service or self._start()
        self.proxy = Proxy(self.service.address)
        self._connect()

    def _start(self, port: int | None = None) -> Service:
        return Service("engine_service", *self._flags, fake=self._fake, port=port)

    def _connect(self) -> None:
        self.channel = grpc.aio.insecure_channel(self.service.address, OWN_CONNECTION)
        self.stub: engine_service_pb2_grpc.EngineServiceAsyncStub = (
            engine_service_pb2_grpc.EngineServiceStub(self.channel)
        )

    @property
    def address(self) -> str:
        """Where front ends connect."""
        return self.proxy.address if self._is_proxied else self.service.address

    async def load(self) -> engine_service_pb2.GetLoadResponse:
        """What it reports by itself."""
        return await self.stub.GetLoad(engine_service_pb2.GetLoadRequest(), timeout=5)

    async def restart(self) -> None:
        """Replaces the process by a new one on the same port, and waits until it serves."""
        await self.channel.close()
        await self.service.close()
        self.service = self._start(self.service.port)
        self._connect()
        await self.service.wait_serving()

    async def close(self) -> None:
        """Ends process and proxy."""
        await self.channel.close()
        await self.proxy.close()
        await self.service.close()


class Site:
    """What a run attacks."""

    def __init__(self, engines: Sequence[Engine], flags: Sequence[str] = ()) -> None:
        """`flags` are the front end's."""
        self.engines = engines
        self._flags = flags
        self.front_end = self._start_front_end()
        self.caller_proxy = Proxy(self.front_end.address)

    def _start_front_end(self, port: int | None = None) -> Service:
        flags = [flag for each in self.engines for flag in ("--engine", each.address)]
        return Service("tokenizer_service", *flags, *self._flags, port=port)

    @property
    def services(self) -> dict[str, Service]:
        """All services, by what they are called."""
        engines = {f"engine {number}": each.service for number, each in enumerate(self.engines)}
        return {"front end": self.front_end, **engines}

    async def restart_front_end(self) -> None:
        """As Engine.restart."""
        await self.front_end.close()
        self.front_end = self._start_front_end(self.front_end.port)
        await self.front_end.wait_serving()

    async def close(self) -> None:
        """Ends everything."""
        await self.caller_proxy.close()
        await self.front_end.close()
        await asyncio.gather(*(engine.close() for engine in self.engines))


@asynccontextmanager
async def running_site(
    *engine_flags: Sequence[str],
    fake: bool = False,
    real_flags: Sequence[str] = ENGINE_FLAGS,
    front_end_flags: Sequence[str] = (),
    is_proxied: bool = True,
) -> AsyncIterator[Site]:
    """A site that serves, with an engine for each of the flags, behind a proxy or not."""
    engines = [Engine((*real_flags, *flags), fake, is_proxied=is_proxied) for flags in engine_flags]
    for engine in engines:
        await engine.proxy.start()
    site = Site(engines, front_end_flags)
    try:
        await site.caller_proxy.start()
        await asyncio.gather(*(engine.service.wait_serving() for engine in engines))
        await site.front_end.wait_serving()
        yield site
    finally:
        await site.close()


@asynccontextmanager
async def front_end_stub(
    address: str,
) -> "AsyncIterator[tokenizer_service_pb2_grpc.TokenizerServiceAsyncStub]":
    """A caller with a connection of its own."""
    async with grpc.aio.insecure_channel(address, OWN_CONNECTION) as channel:
        yield tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
