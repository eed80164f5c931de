"""Stream: one call, kept whole: every message as it came, and when."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from chaos.exact.asks import Ask
from folovllm.errors import FolovError
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2

_PATIENCE = 900.0
"""Seconds, which only what hangs takes."""


@dataclass(slots=True)
class Received:
    """What a caller has got."""

    ask: Ask
    name: str
    method: str
    messages: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    code: grpc.StatusCode | None = None
    """None until the call has ended."""
    details: str = ""
    cuts: list[int] = field(default_factory=list)
    """How many tokens it had when its engine was hurt, each time."""

    @property
    def is_over(self) -> bool:
        """Whether the call has ended."""
        return self.code is not None

    def __str__(self) -> str:
        cut = f"cut at {self.cuts}" if self.cuts else "not cut"
        return f"{self.name} ({self.ask.kind}, {cut}, moved {self.num_moves} times)"

    @property
    def num_tokens(self) -> int:
        """Of all indexes."""
        return sum(len(part.token_ids) for message in self.messages for part in parts(message))

    @property
    def num_moves(self) -> int:
        """As its final messages say."""
        found = (_num_moves(part) for message in self.messages for part in parts(message))
        return max(found, default=0)


class Stream:
    """Started when made. `task` ends with the call and never raises."""

    def __init__(self, ask: Ask, name: str, method: str, begin: Callable[[], Any]) -> None:
        """`begin` makes the call."""
        self.received = Received(ask, name, method)
        self._call = begin()
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"stream {name}")

    async def until(self, is_reached: Callable[[Received], bool]) -> None:
        """Returns when what has come is enough, or it has ended."""
        while not is_reached(self.received) and not self.received.is_over:
            self._changed.clear()
            await self._changed.wait()

    async def _run(self) -> None:
        received = self.received
        try:
            if received.method.endswith("Once"):
                self._take(await self._call)
            else:
                async for message in self._call:
                    self._take(message)
            received.code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            received.code, received.details = error.code(), error.details() or ""
        except FolovError as error:  # a client's
            received.code, received.details = grpc.StatusCode.UNKNOWN, repr(error)
        except asyncio.CancelledError:
            received.code = grpc.StatusCode.CANCELLED
        finally:
            self._changed.set()

    def _take(self, message: Any) -> None:
        self.received.messages.append(message)
        self.received.times.append(time.monotonic())
        self._changed.set()


def open_stream(stub: Any, ask: Ask, name: str, seed: int | None = None) -> Stream:
    """Sends an ask."""
    message = ask.named(name, seed)
    method = getattr(stub, ask.method)
    return Stream(ask, name, ask.method, lambda: method(message, timeout=_PATIENCE))


def open_fork(stub: Any, ask: Ask, name: str) -> Stream:
    """Sends the fork of an ask that runs under a name."""
    assert ask.fork is not None
    message = types_pb2.ForkRequest(
        request_id=name, fork_id=f"{name}-fork", branches=ask.fork.branches
    )
    return Stream(ask, message.fork_id, "Fork", lambda: stub.Fork(message, timeout=_PATIENCE))


def parts(message: Any) -> Iterator[Any]:
    """What a message has of single indexes: itself, or the parts of a whole answer."""
    if isinstance(message, messages.GenerateResponse):
        yield from message.outputs
    elif isinstance(message, messages.ChatResponse):
        yield from message.answers
    else:
        yield message


def _num_moves(part: Any) -> int:
    if isinstance(part, types_pb2.CompletionOutput):
        return int(part.num_moves)
    return int(part.finish.num_moves)
