"""Call: one request as a caller sends it, and the Record of what it got."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from chaos.callers.ask import Ask, Reference
from folovllm.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Manner:
    """How a caller behaves. Counts are of messages, times are in seconds."""

    timeout: float | None = None
    cancel_after: float | None = None
    cancel_at_message: int | None = None
    pause: float = 0.0
    """After each of the first messages: a slow reader."""

    def __str__(self) -> str:
        parts = {
            "deadline": self.timeout,
            "cancel after": self.cancel_after,
            "cancel at message": self.cancel_at_message,
            "pause": self.pause or None,
        }
        return ", ".join(f"{name} {value:g}" for name, value in parts.items() if value) or "plain"


PLAIN = Manner()
_SLOW_MESSAGES = 12


@dataclass(slots=True)
class Piece:
    """A message, or a part of one, that concerns one index."""

    name: str
    index: int
    token_ids: tuple[int, ...]
    text: str
    finish: int
    at: float


@dataclass(slots=True)
class Record:
    """What a caller saw."""

    ask: Ask
    name: str
    started: float = field(default_factory=time.monotonic)
    pieces: list[Piece] = field(default_factory=list)
    code: grpc.StatusCode | None = None
    """None until the call has ended."""
    details: str = ""
    ended: float | None = None
    num_parent_tokens: int | None = None
    """Of a branch: the output that its parent had."""

    @property
    def first_at(self) -> float | None:
        """When the first message came."""
        return self.pieces[0].at if self.pieces else None

    def reference(self) -> Reference:
        """The record of an undisturbed call, as a reference."""
        assert self.code is grpc.StatusCode.OK, f"{self.name}: {self.code} {self.details}"
        tokens: list[list[int]] = [[] for _ in range(self.ask.n)]
        texts = [""] * self.ask.n
        for piece in self.pieces:
            tokens[piece.index] += piece.token_ids
            texts[piece.index] += piece.text
        return Reference(tuple(map(tuple, tokens)), tuple(texts))


class Call:
    """Started when made. `task` ends with the call and never raises."""

    def __init__(
        self,
        stub: Any,
        ask: Ask,
        name: str,
        manner: Manner = PLAIN,
        priority: int = 0,
        cache_salt: str = "",
    ) -> None:
        """`stub` is TokenizerService's, or EngineService's for messages of its own."""
        self.record = Record(ask, name)
        self.changed = asyncio.Event()
        """Set with every message and at the end."""
        self._manner = manner
        self._call = getattr(stub, ask.method)(
            ask.named(name, priority, cache_salt), timeout=manner.timeout, wait_for_ready=False
        )
        self.task = asyncio.create_task(self._run(), name=f"call {name}")

    def cancel(self) -> None:
        """As a caller who has heard enough."""
        self._call.cancel()

    async def until_pieces(self, count: int) -> None:
        """Returns when so many messages have come, or it has ended."""
        while len(self.record.pieces) < count and self.record.code is None:
            self.changed.clear()
            await self.changed.wait()

    async def _run(self) -> None:
        record, manner = self.record, self._manner
        if manner.cancel_after is not None:
            asyncio.get_running_loop().call_later(manner.cancel_after, self._call.cancel)
        try:
            if record.ask.method == "GenerateOnce":
                self._take(list((await self._call).outputs))
            else:
                await self._read()
            record.code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            record.code, record.details = error.code(), error.details() or ""
        except asyncio.CancelledError:
            record.code = grpc.StatusCode.CANCELLED
        finally:
            record.ended = time.monotonic()
            self.changed.set()
            self._call.cancel()

    async def _read(self) -> None:
        manner, count = self._manner, 0
        async for message in self._call:
            self._take([message])
            count += 1
            if count == manner.cancel_at_message:
                self._call.cancel()
            if manner.pause and count <= _SLOW_MESSAGES:
                await asyncio.sleep(manner.pause)

    def _take(self, outputs: list[Any]) -> None:
        now = time.monotonic()
        for output in outputs:
            if output.HasField("info") and self.record.ask.method == "Fork":
                self.record.num_parent_tokens = len(output.info.parent_output_token_ids)
            self.record.pieces.append(_piece(output, now))
        self.changed.set()


def _piece(output: Any, now: float) -> Piece:
    if isinstance(output, types_pb2.CompletionOutput):
        text, finish = output.text, int(output.finish_reason)
    else:
        text = ""
        finish = int(output.finish.reason) if output.HasField("finish") else 0
    return Piece(output.request_id, output.index, tuple(output.token_ids), text, finish, now)


def gaps(record: Record) -> Iterator[float]:
    """Seconds between the messages of a stream."""
    for before, after in zip(record.pieces, record.pieces[1:], strict=False):
        yield after.at - before.at


async def reference_of(stub: Any, ask: Ask, name: str) -> Reference:
    """What an ask answers now. Raises AssertionError if it fails."""
    call = Call(stub, ask, name, Manner(timeout=60))
    await call.task
    return call.record.reference()
