"""What tests of an EnginePool share: commands for it, waiting for its engines, what runs there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from folovllm.liveness import DEFAULT_LIVENESS, LivenessConfig
from folovllm.v1 import engine_service_pb2, types_pb2
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.engines.replicas import Replicas

FINGERPRINT = "f" * 8
Command = engine_service_pb2.SessionCommand


def request(request_id: str = "r", *prompt_token_ids: int) -> Command:
    """The command that begins a request."""
    sent = types_pb2.Request(request_id=request_id, prompt_token_ids=prompt_token_ids or [1, 2])
    return Command(generate=sent)


@asynccontextmanager
async def pool_of(
    *addresses: str,
    fingerprint: str = FINGERPRINT,
    template: str = "",
    replica: str = "",
    liveness: LivenessConfig = DEFAULT_LIVENESS,
    **options: Any,
) -> AsyncIterator[EnginePool]:
    """A pool that follows the engines at these addresses, with EnginePool's other options."""
    expected = Fingerprints(fingerprint, template)
    pool = EnginePool(addresses, expected, Replicas(replica), liveness, **options)
    pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def until_each_ready(pool: EnginePool, *ready: bool) -> None:
    """Returns when each engine is ready, or not."""
    async with asyncio.timeout(20):
        while tuple(engine.ready for engine in pool._engines) != ready:
            await pool._changed.wait()


async def until_ready(pool: EnginePool, ready: bool = True) -> None:
    """Returns when an engine is ready, or none is."""
    async with asyncio.timeout(20), aclosing(pool.readiness()) as changes:
        async for now in changes:
            if now is ready:
                return


def num_running(pool: EnginePool) -> list[int]:
    """How many of this pool's requests run in each engine's session."""
    return [len(engine.session.parts) for engine in pool._engines]
