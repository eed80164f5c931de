"""Shot: one call of an attacker. Attack: a generator of them, and how they are sent."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from folovllm.v1 import engine_service_pb2, tokenizer_service_pb2

Target = Literal["front end", "engine"]
SERVICES = {
    "front end": tokenizer_service_pb2.DESCRIPTOR.services_by_name["TokenizerService"],
    "engine": engine_service_pb2.DESCRIPTOR.services_by_name["EngineService"],
}


@dataclass(frozen=True)
class Shot:
    """One call, its message serialized, since to make it may cost more than to send it."""

    target: Target
    method: str
    data: bytes
    compressed: bool = False
    timeout: float = 20.0
    """Seconds after which the attacker gives it up."""

    @cached_property
    def descriptor(self) -> MethodDescriptor:
        """Of the method."""
        return SERVICES[self.target].methods_by_name[self.method]

    def start(self, channel: Any) -> Any:
        """The call, begun. What streams to the service stays open until it is cancelled."""
        descriptor, options = self.descriptor, {"timeout": self.timeout}
        path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
        if descriptor.client_streaming:
            return channel.stream_stream(path)(**options)
        compression = grpc.Compression.Gzip if self.compressed else None
        kind = channel.unary_stream if descriptor.server_streaming else channel.unary_unary
        return kind(path)(self.data, **options, compression=compression)


def shot(target: Target, method: str, message: Message, **options: Any) -> Shot:
    """A shot of a message."""
    return Shot(target, method, message.SerializeToString(), **options)


Shots = Callable[[random.Random], Iterator[Shot]]


@dataclass(frozen=True)
class Attack:
    """A class of attacks. It follows from a seed which of it are sent, one after the other."""

    name: str
    shots: Shots
    """Any number of them."""
    width: int = 8
    """Calls at once, of each attacker."""
    burst: bool = False
    """They begin together, and the next ones when all of them have ended."""
    parent: Shots | None = None
    """Streams that run meanwhile, for the shots to name; one of each attacker."""
    twin: Shots | None = None
    """The same requests without what is costly, in place of the usual harmless load."""
    magazine: int = 64
    """How many different shots are made."""
    fills_queue: bool = False
    """The model has so much to do that others may wait: who came first is served first."""
    fake: bool = False
    """On a model that costs nothing and has a long context, for what the embedded one's lacks."""
