"""Connection: the channel to one engine, with what is called over it."""

from typing import Protocol

from grpc_health.v1 import health_pb2_grpc

from folovllm.serving.channel import ENGINE_CLIENT_OPTIONS, open_channel
from folovllm.v1 import engine_service_pb2_grpc

# Another channel to the same address is another connection.
_CHANNEL_OPTIONS = [*ENGINE_CLIENT_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]


class Connection(Protocol):
    """How an engine is reached."""

    engine: "engine_service_pb2_grpc.EngineServiceAsyncStub"
    health: health_pb2_grpc.HealthStub

    async def close(self) -> None:
        """Closes it and with it every call."""


class GrpcConnection:
    """A channel of its own."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address, options=_CHANNEL_OPTIONS)
        self.engine: engine_service_pb2_grpc.EngineServiceAsyncStub = (
            engine_service_pb2_grpc.EngineServiceStub(self._channel)
        )
        self.health = health_pb2_grpc.HealthStub(self._channel)

    async def close(self) -> None:
        """Closes the channel and with it every call."""
        await self._channel.close()
