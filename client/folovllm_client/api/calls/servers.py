"""Servers: the tokenizer services that a client may ask, of which it asks one at a time."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from grpc_health.v1 import health_pb2_grpc

from folovllm.errors import ConfigError
from folovllm.serving.address import check_address
from folovllm.v1 import engine_service_pb2_grpc, tokenizer_service_pb2_grpc

Channel = TypeVar("Channel")


class Server(Generic[Channel]):
    """One address, with a channel to it."""

    def __init__(self, address: str, channel: Channel) -> None:
        self.address = address
        self.channel = channel
        # Their types depend on the channel's; whoever uses them says which they are.
        opened: Any = channel
        self.tokenizer: Any = tokenizer_service_pb2_grpc.TokenizerServiceStub(opened)
        self.engine: Any = engine_service_pb2_grpc.EngineServiceStub(opened)
        self.health = health_pb2_grpc.HealthStub(opened)


class Servers(Generic[Channel]):
    """All of them, at least one. Threads may share it."""

    def __init__(self, servers: Sequence[Server[Channel]]) -> None:
        self._servers = servers
        self.current = servers[0]
        """The one to ask."""

    def __len__(self) -> int:
        return len(self._servers)

    def give_up(self, server: Server[Channel]) -> None:
        """Asks the next one from now on, unless another call has said so before."""
        if server is self.current:
            following = self._servers.index(server) + 1
            self.current = self._servers[following % len(self._servers)]

    @property
    def channels(self) -> list[Channel]:
        """Those to all of them."""
        return [server.channel for server in self._servers]


def read_addresses(address: str | Sequence[str]) -> list[str]:
    """The addresses that a client was given, one or several. Raises ConfigError."""
    addresses = [address] if isinstance(address, str) else list(address)
    if not addresses:
        raise ConfigError("address must name at least one server")
    return [check_address(each, "address") for each in addresses]
