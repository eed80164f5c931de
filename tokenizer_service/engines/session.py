"""EngineSession: one call that carries all requests of this service to one engine.

One task hands over what comes: all of a message, then its readers run. Another sends commands in
their order. When the call breaks, every request that runs on it ends at once with UnavailableError.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import grpc

from folovllm.errors import (
    FolovError,
    InvalidRequestError,
    UnavailableError,
    from_rpc_error,
    from_status_bytes,
)
from folovllm.request_id import new_request_id
from folovllm.request_names import check_name
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2
from tokenizer_service.engines.hand_over import HandOver
from tokenizer_service.engines.stream import TOKENS_PER_CONTINUATION, EngineStream

# Seconds for the first message, which comes at once.
_OPEN_TIMEOUT = 5.0
# Names of cancelled requests that are kept, the latest ones.
_MOST_CANCELLED = 1024

Events = engine_service_pb2.SessionEvents
Command = engine_service_pb2.SessionCommand
Call = grpc.aio.StreamStreamCall[Command, Events]


class EngineSession:
    """An open session. Belongs to the event loop that it is made in."""

    @classmethod
    async def open(
        cls, engine: "engine_service_pb2_grpc.EngineServiceAsyncStub", address: str
    ) -> "EngineSession":
        """Opens one with the engine at `address`. Raises FolovError."""
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
        return cls(address, call, messages, first)

    def __init__(
        self, address: str, call: Call, messages: AsyncIterator[Events], first: Events
    ) -> None:
        self.address = address
        self.own_tokens = 0
        """Outstanding tokens of the session's requests; its owner adds those of other calls."""
        self._others_tokens = 0
        self._call = call
        self._hand_over = HandOver()
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._streams: dict[str, EngineStream] = {}  # by wire name
        self._wire_names: dict[str, str] = {}  # of the same, by name
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self.end_reason = ""
        """Why it ended, in words; empty while it is open."""
        self._take(first)
        self.ended = asyncio.create_task(self._read(messages), name=f"read {address}")
        """Done when the session has ended."""
        self._writer = asyncio.create_task(self._write(), name=f"write {address}")

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return not self.end_reason

    @property
    def num_requests(self) -> int:
        """Requests that run in it."""
        return len(self._streams)

    @property
    def outstanding_tokens(self) -> int:
        """What the engine still has to compute, for this service and by its report for others."""
        return self.own_tokens + self._others_tokens

    def runs(self, name: str) -> bool:
        """Whether a request or fork of that name runs in it."""
        return name in self._wire_names

    def generate(self, request: types_pb2.Request) -> EngineStream:
        """Begins a request. Raises InvalidRequestError where its id is invalid or it is too large.

        The stream raises FolovError; close it at the end.
        """
        _check_size(request, "sampling_params", "the prompt with its parameters")
        params = request.sampling_params
        stream = self._start(
            "request_id",
            request.request_id,
            len(request.prompt_token_ids),
            params.n if params.HasField("n") else 1,
        )
        command = Command(generate=request)
        command.generate.request_id = stream.wire_name
        self._commands.put_nowait(command)
        return stream

    def fork(self, request: types_pb2.ForkRequest) -> EngineStream:
        """Begins the branches of a request that the engine runs; else as `generate`."""
        _check_size(request, "branches", "the branches")
        stream = self._start("fork_id", request.fork_id, 0, len(request.branches))
        command = Command(fork=request)
        command.fork.fork_id = stream.wire_name
        command.fork.request_id = self._wire_names.get(request.request_id, request.request_id)
        self._commands.put_nowait(command)
        return stream

    async def close(self) -> None:
        """Leaves; what still runs ends here with UnavailableError, and at the engine."""
        self._end("the session was closed")
        self._call.cancel()
        self.ended.cancel()
        await asyncio.gather(self.ended, self._writer, return_exceptions=True)

    def _start(
        self, field: str, name: str, num_prompt_tokens: int, num_continuations: int
    ) -> EngineStream:
        check_name(field, name)
        if self.end_reason:
            raise self._unavailable(self.end_reason)
        if name in self._wire_names:
            raise InvalidRequestError(field, f"{name} is running already")
        wire_name = name
        if name in self._cancelled:
            # Pieces of the former request may still be on their way; they must not be this one's.
            wire_name = new_request_id()
        stream = EngineStream(
            name, wire_name, num_prompt_tokens, num_continuations, self._abort, self._cancel
        )
        self._streams[wire_name] = stream
        self._wire_names[name] = wire_name
        self.own_tokens += stream.outstanding_tokens
        return stream

    def _abort(self, stream: EngineStream, indexes: Sequence[int]) -> None:
        if self._streams.get(stream.wire_name) is not stream:
            return
        abort = engine_service_pb2.AbortRequest(request_id=stream.wire_name, indexes=indexes)
        self._commands.put_nowait(Command(abort=abort))

    def _cancel(self, stream: EngineStream) -> None:
        """Ends a stream that no one reads any more, unless it has ended."""
        if self._streams.get(stream.wire_name) is not stream:
            return
        self._remove(stream)
        self._cancelled[stream.name] = None
        self._cancelled.move_to_end(stream.name)
        if len(self._cancelled) > _MOST_CANCELLED:
            self._cancelled.popitem(last=False)
        self._commands.put_nowait(Command(cancel=stream.wire_name))

    def _remove(self, stream: EngineStream) -> None:
        self.own_tokens -= stream.outstanding_tokens
        del self._streams[stream.wire_name]
        del self._wire_names[stream.name]

    async def _read(self, messages: AsyncIterator[Events]) -> None:
        reason = "its session ended"
        try:
            async for events in messages:
                self._take(events)
        except grpc.aio.AioRpcError as error:
            reason = str(from_rpc_error(error))
        finally:
            self._end(reason)

    async def _write(self) -> None:
        # Where the call has broken the reader says so.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._call.write(await self._commands.get())

    def _take(self, events: Events) -> None:
        """Hands over a message."""
        for piece in events.outputs:
            stream = self._streams.get(piece.request_id)
            if stream is None:  # it was cancelled
                continue
            before = stream.outstanding_tokens
            stream.put(piece)
            self._hand_over.add(stream)
            self.own_tokens += stream.outstanding_tokens - before
            if stream.complete:
                self._remove(stream)
        for failure in events.failures:
            stream = self._streams.get(failure.request_id)
            if stream is not None:
                self._remove(stream)
                stream.fail(self._failure(failure.status))
        self._hand_over.run()
        if events.HasField("load"):
            # What it has beyond this service's own comes from others. The report may lack requests
            # that it had not seen; then others count for too little until the next one.
            self._others_tokens = max(0, _tokens(events.load) - self.own_tokens)

    def _failure(self, status: bytes) -> FolovError:
        failure = from_status_bytes(status)
        return self._unavailable(str(failure)) if isinstance(failure, UnavailableError) else failure

    def _unavailable(self, reason: str) -> UnavailableError:
        return UnavailableError(f"engine {self.address}: {reason}")  # of several, say which

    def _end(self, reason: str) -> None:
        """Ends every stream, the first time that it is called."""
        if self.end_reason:
            return
        self.end_reason = reason
        self._writer.cancel()
        for stream in list(self._streams.values()):
            self._remove(stream)
            stream.fail(self._unavailable(reason))


def _check_size(message: types_pb2.Request | types_pb2.ForkRequest, field: str, what: str) -> None:
    """Refuses what gRPC would not send, since it would break the call for all other requests.

    What callers send is bounded, but bad words may become longer as token ids.
    """
    most = MAX_MESSAGE_BYTES - 1024  # for what a command adds
    if message.ByteSize() > most:
        raise InvalidRequestError(
            field, f"{what} have {message.ByteSize()} bytes as token ids, over the limit of {most}"
        )


def _tokens(load: engine_service_pb2.GetLoadResponse) -> int:
    """A load in outstanding tokens."""
    num_sequences = load.num_running + load.num_waiting
    return int(load.num_queued_tokens + num_sequences * TOKENS_PER_CONTINUATION)
