"""Health: gRPC's health service, with watches that do not hold up the end of the server."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from folovllm.serving.background_tasks import first

Context = grpc.aio.ServicerContext[Any, Any]


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """What it serves is NOT_SERVING from `enter_graceful_shutdown` on."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Tells of every change until the caller leaves, or `end_watches`."""
        await first(super().Watch(request, context), self._ended.wait())
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")

    def end_watches(self) -> None:
        """Ends those that are open, which never end by themselves."""
        self._ended.set()
