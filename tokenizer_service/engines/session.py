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
    UnavailableError,
    from_rpc_error,
    from_status_bytes,
)
from folovllm.liveness import LivenessConfig
from folovllm.serving.background_tasks import start_background
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc
from tokenizer_service.engines.command_size import check_size
from tokenizer_service.engines.handles import Handles
from tokenizer_service.engines.heartbeats import Heartbeats
from tokenizer_service.engines.migration.attempts import Failure
from tokenizer_service.engines.part import TOKENS_PER_CONTINUATION, Part
from tokenizer_service.engines.wake_rounds import WakeRounds
from tokenizer_service.engines.wire_names import other_name

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

        `on_change` is called when `is_silent` or `drains` has changed.
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
        session = cls(address, call, messages, first, on_change)
        if first.answers_heartbeats:
            session._listen(liveness, on_change)
        return session

    def __init__(
        self,
        address: str,
        call: Call,
        messages: AsyncIterator[Events],
        first: Events,
        on_change: Callable[[], None],
    ) -> None:
        self.address = address
        self.own_tokens = 0
        """Outstanding tokens of the session's requests; its owner adds those of other calls."""
        self._others_tokens = 0
        self.load = engine_service_pb2.GetLoadResponse(num_admissible=1)
        """The engine's, as it has said last."""
        self._call = call
        self._wake_rounds = WakeRounds()
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._parts: dict[str, Part] = {}  # by wire name
        self._handles = Handles()  # of the same
        self._cancelled: OrderedDict[str, None] = OrderedDict()  # wire names
        self.end_reason = ""
        """Why it ended, in words; empty while it is open."""
        self.was_lost = False
        """Whether it ended because the engine said nothing."""
        self.drains = False
        """Whether the engine is about to end."""
        self._on_change = on_change
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

    def ask(self) -> None:
        """Asks for a sign of life at once, if the engine gives any."""
        if self._heartbeats is not None:
            self._heartbeats.ask()

    def was_heard_since(self, time: float) -> bool:
        """Whether the engine has said something, or does not know that it is asked to."""
        return self._heartbeats is None or self._heartbeats.heard_at >= time

    @property
    def is_open(self) -> bool:
        """Whether it accepts requests."""
        return not self.end_reason

    @property
    def has_room(self) -> bool:
        """Whether the engine admits another request, as far as it has said."""
        return self.load.num_admissible > 0

    @property
    def takes_requests(self) -> bool:
        """Whether new requests may be sent."""
        return not self.trouble

    @property
    def trouble(self) -> str:
        """Why no new requests may be sent, in words; empty if they may."""
        if self.end_reason:
            return self.end_reason
        if self.is_silent:
            return "it is silent"
        return "it drains" if self.drains else ""

    @property
    def parts(self) -> Sequence[Part]:
        """What runs in it, the oldest first."""
        return [*self._parts.values()]

    @property
    def outstanding_tokens(self) -> int:
        """What the engine still has to compute: for this service, and for others as it reports."""
        return self.own_tokens + self._others_tokens

    def generate(self, part: Part, command: Command, wire_name: str) -> None:
        """Begins the request of a command, whose outputs then go to the part.

        The command must not be changed afterwards. Raises InvalidRequestError if the request is too
        large, and UnavailableError.
        """
        check_size(command.generate, "sampling_params", "the prompt with its parameters")
        self._begin(part, wire_name)
        command.generate.request_id = part.wire_name
        command.handle = part.handle
        self._commands.put_nowait(command)

    def fork(self, part: Part, command: Command, name: str, parent: Part) -> None:
        """Begins the branches of a request that runs here; otherwise as `generate`."""
        fork = command.fork
        check_size(fork, "branches", "the branches")
        self._begin(part, name, num_unstarted_tokens=0)
        fork.fork_id, fork.request_id = part.wire_name, parent.wire_name
        command.handle = part.handle
        self._commands.put_nowait(command)

    def abort(self, part: Part, indexes: Sequence[int]) -> None:
        """Asks the engine to end continuations, unless the part has ended."""
        if self._parts.get(part.wire_name) is not part:
            return
        abort = engine_service_pb2.AbortRequest(request_id=part.wire_name, indexes=indexes)
        self._commands.put_nowait(Command(abort=abort))

    def cancel(self, part: Part) -> None:
        """Ends a part that is no longer wanted here, unless it has ended."""
        if self._parts.get(part.wire_name) is not part:
            return
        self._remove(part)
        self._cancelled[part.wire_name] = None
        self._cancelled.move_to_end(part.wire_name)
        if len(self._cancelled) > _MAX_CANCELLED:
            self._cancelled.popitem(last=False)
        self._commands.put_nowait(Command(cancel=part.wire_name))

    async def close(self) -> None:
        """Ends the call; what still runs fails with UnavailableError and ends at the engine."""
        self._end("the session was closed")
        self.ended.cancel()
        await asyncio.gather(self.ended, *self._tasks, return_exceptions=True)

    def _begin(self, part: Part, wire_name: str, num_unstarted_tokens: int | None = None) -> None:
        """Takes a part, under this name if nothing that may still come for another has it."""
        if self.end_reason or self.is_silent:
            raise self._unavailable(self.trouble)
        # Outputs of a cancelled request may still arrive; they must not be taken for this one's.
        if wire_name in self._cancelled or wire_name in self._parts:
            wire_name = other_name(wire_name)
        part.attach(self, wire_name, self._handles.assign(part), num_unstarted_tokens)
        self._parts[wire_name] = part
        self.own_tokens += part.outstanding_tokens

    def _remove(self, part: Part) -> None:
        self.own_tokens -= part.outstanding_tokens
        del self._parts[part.wire_name]
        self._handles.release(part)

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
            if name in self._parts:
                self._parts[name].scheduled = True
        for found, index, token_ids in self._handles.rows(events.columns):
            before = found.outstanding_tokens
            found.put_ids(index, token_ids)
            self._wake_rounds.add(found.stream)
            self.own_tokens += found.outstanding_tokens - before
        for output in events.outputs:
            part = self._parts.get(output.request_id)
            if part is None:  # it was cancelled
                continue
            before = part.outstanding_tokens
            part.put(output)
            self._wake_rounds.add(part.stream)
            self.own_tokens += part.outstanding_tokens - before
            if output.finish_reason and part.complete:
                self._remove(part)
        for failure in events.failures:
            part = self._parts.get(failure.request_id)
            if part is not None:
                self._remove(part)
                part.fail(Failure.told(self._failure(failure.status), part.scheduled))
        self._wake_rounds.run()
        if events.HasField("load"):
            load = self.load = events.load
            num_sequences = load.num_running + load.num_waiting
            num_tokens = load.num_queued_tokens + num_sequences * TOKENS_PER_CONTINUATION
            # What exceeds this service's own share comes from others. The engine may have reported
            # before it saw our latest requests; others then count for too little until it reports
            # again.
            self._others_tokens = max(0, num_tokens - self.own_tokens)
        if events.drains and not self.drains:
            self.drains = True
            self._on_change()

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
        for part in self.parts:
            if self._parts.get(part.wire_name) is not part:
                continue  # its stream has ended with another part
            self._remove(part)
            scheduled = part.scheduled or not self._tells_scheduled
            part.fail(Failure(self._unavailable(reason), admitted=True, scheduled=scheduled))
