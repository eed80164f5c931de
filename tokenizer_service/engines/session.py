"""EngineSession: one call that carries all requests of this service to one engine.

One task distributes what the engine sends: a whole message first, then its readers run. Another
sends commands in order, a third heartbeats. When the call breaks, a task fails or the engine is
silent for too long, every request in it fails with UnavailableError, and the call ends.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import grpc

from folovllm.errors import (
    FolovError,
    InvalidRequestError,
    UnavailableError,
    from_rpc_error,
    from_status_bytes,
)
from folovllm.liveness import LivenessConfig
from folovllm.request_id import new_request_id
from folovllm.serving.background_tasks import start_background
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.serving.request_names import check_name
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2
from tokenizer_service.engines.heartbeats import Heartbeats
from tokenizer_service.engines.stream import TOKENS_PER_CONTINUATION, EngineStream, WakeRounds

# Seconds for the first message, which the engine sends at once.
_OPEN_TIMEOUT = 5.0
# How many names of cancelled requests are remembered, the latest ones.
_MAX_CANCELLED = 1024

Events = engine_service_pb2.SessionEvents
Command = engine_service_pb2.SessionCommand
Call = grpc.aio.StreamStreamCall[Command, Events]


class EngineSession:
    """An open session. Belongs to the event loop that it is made in."""

    @classmethod
    async def open(
        cls,
        engine: "engine_service_pb2_grpc.EngineServiceAsyncStub",
        address: str,
        liveness: LivenessConfig,
        on_change: Callable[[], None],
    ) -> "EngineSession":
        """Opens one with the engine at `address`. Raises FolovError.

        `on_change` is called when `is_silent` has changed.
        """
        call = engine.Session()
        messages = aiter(call)
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT):
                first = await anext(messages)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        except (TimeoutError, StopAsyncIteration):
            call.cancel()
            raise UnavailableError("it opens no session") from None
        session = cls(address, call, messages, first)
        if first.answers_heartbeats:
            session._listen(liveness, on_change)
        return session

    def __init__(
        self, address: str, call: Call, messages: AsyncIterator[Events], first: Events
    ) -> None:
        self.address = address
        self.own_tokens = 0
        """Outstanding tokens of the session's requests; its owner adds those of other calls."""
        self._others_tokens = 0
        self.has_room = True
        """Whether the engine admits another request, as far as it has said."""
        self._call = call
        self._wake_rounds = WakeRounds()
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._streams: dict[str, EngineStream] = {}  # by wire name
        self._wire_names: dict[str, str] = {}  # of the same, by name
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self.end_reason = ""
        """Why it ended, in words; empty while it is open."""
        self.was_lost = False
        """Whether it ended because the engine said nothing."""
        self._heartbeats: Heartbeats | None = None
        # One that does not may have begun anything.
        self._tells_scheduled = first.answers_heartbeats
        self._receive(first)
        self.ended = start_background(
            self._read(messages), f"read {address}", lambda _: self._end("its session ended")
        )
        """Done when the session has ended."""
        self._tasks: list[asyncio.Task[None]] = []
        self._start(self._write(), "write")

    @property
    def is_silent(self) -> bool:
        """Whether the engine says nothing, so that it gets nothing new."""
        return self._heartbeats is not None and self._heartbeats.is_silent

    @property
    def is_open(self) -> bool:
        """Whether it accepts requests."""
        return not self.end_reason

    @property
    def outstanding_tokens(self) -> int:
        """What the engine still has to compute: for this service, and for others as it reports."""
        return self.own_tokens + self._others_tokens

    def runs(self, name: str) -> bool:
        """Whether a request or fork of that name runs in it."""
        return name in self._wire_names

    def stream_of(self, name: str) -> EngineStream:
        """The stream of a request or fork that runs in it."""
        return self._streams[self._wire_names[name]]

    def generate(self, stream: EngineStream, command: Command) -> None:
        """Begins the request of a command, whose outputs then go to the stream.

        The command must not be changed afterwards. Raises InvalidRequestError if the request's id
        is invalid or in use, or the request is too large, and UnavailableError.
        """
        _check_size(command.generate, "sampling_params", "the prompt with its parameters")
        self._begin(stream, "request_id")
        command.generate.request_id = stream.wire_name
        self._commands.put_nowait(command)

    def fork(self, stream: EngineStream, command: Command) -> None:
        """Begins the branches of a request that the engine runs; otherwise as `generate`."""
        fork = command.fork
        _check_size(fork, "branches", "the branches")
        self._begin(stream, "fork_id")
        fork.fork_id = stream.wire_name
        fork.request_id = self._wire_names.get(fork.request_id, fork.request_id)
        self._commands.put_nowait(command)

    def abort(self, stream: EngineStream, indexes: Sequence[int]) -> None:
        """Asks the engine to end continuations, unless the stream has ended."""
        if self._streams.get(stream.wire_name) is not stream:
            return
        abort = engine_service_pb2.AbortRequest(request_id=stream.wire_name, indexes=indexes)
        self._commands.put_nowait(Command(abort=abort))

    def cancel(self, stream: EngineStream) -> None:
        """Ends a stream that is no longer read, unless it has ended."""
        if self._streams.get(stream.wire_name) is not stream:
            return
        self._remove(stream)
        self._cancelled[stream.name] = None
        self._cancelled.move_to_end(stream.name)
        if len(self._cancelled) > _MAX_CANCELLED:
            self._cancelled.popitem(last=False)
        self._commands.put_nowait(Command(cancel=stream.wire_name))

    async def close(self) -> None:
        """Ends the call; what still runs fails with UnavailableError and ends at the engine."""
        self._end("the session was closed")
        self.ended.cancel()
        await asyncio.gather(self.ended, *self._tasks, return_exceptions=True)

    def _begin(self, stream: EngineStream, field: str) -> None:
        """Takes a stream, whose name came in a command's `field`."""
        name = stream.name
        check_name(field, name)
        if self.end_reason:
            raise self._unavailable(self.end_reason)
        if self.is_silent:
            raise self._unavailable("it is silent")
        if name in self._wire_names:
            raise InvalidRequestError(field, f"{name} is running already")
        # Outputs of a cancelled request may still arrive; they must not be taken for this one's.
        wire_name = new_request_id() if name in self._cancelled else name
        stream.attach(self, wire_name)
        self._streams[wire_name] = stream
        self._wire_names[name] = wire_name
        self.own_tokens += stream.outstanding_tokens

    def _remove(self, stream: EngineStream) -> None:
        self.own_tokens -= stream.outstanding_tokens
        del self._streams[stream.wire_name]
        del self._wire_names[stream.name]

    async def _read(self, messages: AsyncIterator[Events]) -> None:
        try:
            async for events in messages:
                self._receive(events)
        except grpc.aio.AioRpcError as error:
            self._end(str(from_rpc_error(error)))

    async def _write(self) -> None:
        # If the call has broken, the reader reports it.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._call.write(await self._commands.get())

    def _listen(self, liveness: LivenessConfig, on_change: Callable[[], None]) -> None:
        self._heartbeats = Heartbeats(
            liveness,
            lambda: self._commands.put_nowait(Command(heartbeat=engine_service_pb2.Heartbeat())),
            on_change,
        )
        self._start(self._end_if_lost(self._heartbeats, liveness.lost), "listen to")

    async def _end_if_lost(self, heartbeats: Heartbeats, seconds: float) -> None:
        await heartbeats.until_lost()
        self.was_lost = True
        self._end(f"it has said nothing for {seconds:g} s")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Does something beside reading, until the session ends."""
        task = start_background(work, f"{name} {self.address}", self._end_if_failed)
        self._tasks.append(task)

    def _end_if_failed(self, error: BaseException | None) -> None:
        if error is not None:
            self._end("its session failed; the log says more")

    def _receive(self, events: Events) -> None:
        """Distributes a message to the streams."""
        if self._heartbeats is not None:
            self._heartbeats.heard()
        for name in events.scheduled:
            if name in self._streams:
                self._streams[name].scheduled = True
        for output in events.outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:  # it was cancelled
                continue
            before = stream.outstanding_tokens
            stream.put(output)
            self._wake_rounds.add(stream)
            self.own_tokens += stream.outstanding_tokens - before
            if stream.complete:
                self._remove(stream)
        for failure in events.failures:
            stream = self._streams.get(failure.request_id)
            if stream is not None:
                self._remove(stream)
                # What the engine refuses was not computed.
                stream.fail(self._failure(failure.status), scheduled=False)
        self._wake_rounds.run()
        if events.HasField("load"):
            load = events.load
            self.has_room = load.num_admissible > 0
            num_sequences = load.num_running + load.num_waiting
            num_tokens = load.num_queued_tokens + num_sequences * TOKENS_PER_CONTINUATION
            # What exceeds this service's own share comes from others. The engine may have reported
            # before it saw our latest requests; others then count for too little until it reports
            # again.
            self._others_tokens = max(0, num_tokens - self.own_tokens)

    def _failure(self, status: bytes) -> FolovError:
        failure = from_status_bytes(status)
        if isinstance(failure, UnavailableError):
            failure.args = (self._named(str(failure)),)
        return failure

    def _unavailable(self, reason: str) -> UnavailableError:
        return UnavailableError(self._named(reason))

    def _named(self, reason: str) -> str:
        return f"engine {self.address}: {reason}"  # which of several

    def _end(self, reason: str) -> None:
        """Fails every stream and ends the call; only the first time has an effect."""
        if self.end_reason:
            return
        self.end_reason = reason
        for task in self._tasks:
            task.cancel()
        self._call.cancel()
        for stream in list(self._streams.values()):
            self._remove(stream)
            scheduled = stream.scheduled or not self._tells_scheduled
            stream.fail(self._unavailable(reason), scheduled)


def _check_size(message: types_pb2.Request | types_pb2.ForkRequest, field: str, what: str) -> None:
    """Refuses what gRPC would not send, since it would break the call for all other requests.

    What callers send is bounded, but bad words may become longer as token ids.
    """
    max_bytes = MAX_MESSAGE_BYTES - 1024  # for what a command adds
    if message.ByteSize() > max_bytes:
        raise InvalidRequestError(
            field,
            f"{what} have {message.ByteSize()} bytes as token ids, over the limit of {max_bytes}",
        )
