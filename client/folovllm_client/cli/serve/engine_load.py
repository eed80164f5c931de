"""How busy an engine is, told when it changes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import grpc

from folovllm.serving.channel import open_channel
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc

# Seconds between two reports while requests run.
_INTERVAL = 0.5

Load = engine_service_pb2.GetLoadResponse


async def follow_load(address: str, report: Callable[[Load], None]) -> None:
    """Reports the load now, then while requests run; ends when the engine drains or is gone.

    The engine itself says that something begins: nothing is asked while it is idle.
    """
    async with open_channel(address) as channel:
        stub = engine_service_pb2_grpc.EngineServiceStub(channel)
        changed = asyncio.Event()
        reporting = asyncio.ensure_future(_report(stub, changed, report))
        try:
            with suppress(grpc.aio.AioRpcError):
                # A session without requests still gets the load.
                async for _ in stub.Session(_no_commands()):
                    changed.set()
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)


async def _report(
    stub: "engine_service_pb2_grpc.EngineServiceAsyncStub",
    changed: asyncio.Event,
    report: Callable[[Load], None],
) -> None:
    while True:
        changed.clear()
        load = await stub.GetLoad(engine_service_pb2.GetLoadRequest())
        report(load)
        await (asyncio.sleep(_INTERVAL) if load.num_requests else changed.wait())


async def _no_commands() -> AsyncIterator[engine_service_pb2.SessionCommand]:
    await asyncio.Event().wait()
    yield engine_service_pb2.SessionCommand()
