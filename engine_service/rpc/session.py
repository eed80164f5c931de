"""Session: many requests of one front end over one call.

Commands start requests on the AsyncEngine and end them. What arrives for any of them while one
message is written becomes the next message: one a step if the front end keeps up, merged if it
lags. A request's failure is an event and affects no other. However the session ends, it releases
its requests; it also ends when a front end that sends heartbeats is silent.
"""

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

import grpc

from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.commands import Fork, Generate, Matchers
from engine_service.rpc.front_end import FrontEnd
from engine_service.rpc.load_reporter import LoadReporter
from engine_service.rpc.request_reader import read_fork, read_generate
from engine_service.rpc.session_call import SessionCall
from folovllm.bounds.check_bounds import check_bounds
from folovllm.errors import (
    FolovError,
    InvalidRequestError,
    ServerError,
    UnavailableError,
    status_code,
    to_status,
)
from folovllm.liveness import DEFAULT_LIVENESS, LivenessConfig
from folovllm.serving.active_calls import ActiveCalls
from folovllm.serving.background_tasks import start_background
from folovllm.serving.call_log import as_folov_error
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.serving.request_names import check_name
from folovllm.v1 import engine_service_pb2, types_pb2

# A message is larger only if it is one piece, which by itself is within gRPC's limit.
_MAX_BYTES = MAX_MESSAGE_BYTES // 4
# Characters of a name that are sent back if it is refused for its length: 2 MiB at most.
_MAX_ECHO = MAX_MESSAGE_BYTES // 8
# Failures that wait to be written; no command is read while there are more.
_MAX_FAILURES = 1024

_METHOD = "/folovllm.v1.EngineService/"

SessionCommand = engine_service_pb2.SessionCommand
SessionEvents = engine_service_pb2.SessionEvents
SessionFailure = engine_service_pb2.SessionFailure


class Session:
    """One call of EngineService.Session. Belongs to the event loop."""

    def __init__(
        self,
        engine: AsyncEngine,
        active_calls: ActiveCalls,
        peer: str,
        liveness: LivenessConfig = DEFAULT_LIVENESS,
    ) -> None:
        self._engine = engine
        self._active_calls = active_calls
        self._peer = peer
        self._open: set[SessionCall] = set()  # until their last message is written
        self._running: dict[str, SessionCall] = {}  # those of them that have not ended
        # Those that wait for their grammars.
        self._compiling: dict[SessionCall, asyncio.Task[None]] = {}
        self._changed: dict[SessionCall, None] = {}  # those with unread outputs, in order
        self._failed: deque[tuple[SessionCall, FolovError]] = deque()
        # Those whose end is in the message that is being written.
        self._ended: list[SessionCall] = []
        self._wake = asyncio.Event()
        self._may_read = asyncio.Event()
        self._load_reporter = LoadReporter(engine, self._wake.set)
        self._scheduled: list[str] = []  # names that the next message tells
        self._front_end = FrontEnd(peer, liveness, self._lose_front_end)
        self._greeted = False

    async def serve(
        self, commands: AsyncIterator[SessionCommand]
    ) -> AsyncGenerator[SessionEvents, None]:
        """Executes the commands and yields the messages, each when the one before is written.

        Ends with the commands, or when the server has drained. Raises UnavailableError if the
        front end is lost.
        """
        reader = asyncio.ensure_future(self._read(commands))
        drained = asyncio.ensure_future(self._active_calls.drained())
        for task in (reader, drained):
            task.add_done_callback(lambda _: self._wake.set())
        try:
            with self._load_reporter.watching():
                while not reader.done():
                    if self._front_end.is_lost:
                        raise UnavailableError("the front end is silent")
                    last = drained.done()
                    for message in self._messages():
                        yield message
                        self._close(self._ended)
                    if last:
                        return
                    await self._wake.wait()
                    self._wake.clear()
            reader.result()
        finally:
            self._release_all()
            self._front_end.leave()
            for task in (reader, drained):
                task.cancel()
            await asyncio.gather(reader, drained, return_exceptions=True)

    # Commands of the front end.

    async def _read(self, commands: AsyncIterator[SessionCommand]) -> None:
        async for command in commands:
            self._execute(command)
            while len(self._failed) >= _MAX_FAILURES:
                self._may_read.clear()
                await self._may_read.wait()

    def _execute(self, message: SessionCommand) -> None:
        self._front_end.heard()
        kind = message.WhichOneof("command")
        if kind == "cancel":
            self._cancel(message.cancel)
        elif kind == "heartbeat":
            self._front_end.asks()
            self._wake.set()
        elif kind == "abort":
            self._abort(message.abort)
        elif kind == "fork":
            name = message.fork.fork_id
            read_it = functools.partial(read_fork, message.fork, self._engine)
            self._start("Fork", "fork_id", name, message.fork, read_it)
        else:
            name = message.generate.request_id
            read = functools.partial(read_generate, message.generate, self._engine)
            self._start("Generate", "request_id", name, message.generate, read)

    def _start(
        self,
        method: str,
        name_field: str,
        name: str,
        message: types_pb2.Request | types_pb2.ForkRequest,
        read: Callable[[], Generate | Fork],
    ) -> None:
        """Starts a request; anything wrong with it becomes its failure."""
        call = SessionCall(_METHOD + method, name[:_MAX_ECHO])
        self._open.add(call)
        try:
            call.counted.enter_context(self._active_calls.entered(stream=True))
            check_name(name_field, name)
            check_bounds(message)
            if name in self._running:
                raise InvalidRequestError(name_field, f"{name} is running already")
            command = read()
            self._running[name] = call
            if command.follows_grammar:
                self._engine.check_admissible(len(self._compiling))
                self._compiling[call] = start_background(
                    self._submit_with_grammars(call, command),
                    f"grammars of {name}",
                    functools.partial(self._end_compiling, call),
                )
            else:
                self._submit(call, command)
        except Exception as error:
            self._fail(call, error)

    async def _submit_with_grammars(self, call: SessionCall, command: Generate | Fork) -> None:
        try:
            self._submit(call, command, await self._engine.make_matchers(command))
        except Exception as error:
            self._fail(call, error)

    def _end_compiling(self, call: SessionCall, error: BaseException | None) -> None:
        del self._compiling[call]
        if error is not None and call.code is None:
            # It is no Exception, or it would be the request's failure already.
            self._fail(call, ServerError("internal error; the server's log says more"))

    def _submit(self, call: SessionCall, command: Generate | Fork, matchers: Matchers = ()) -> None:
        call.stream = self._engine.submit(command, matchers)
        call.stream.notify = functools.partial(self._set_changed, call)
        for indexes in call.aborts:
            self._engine.abort(call.name, indexes)

    def _set_changed(self, call: SessionCall) -> None:
        self._changed[call] = None
        self._wake.set()

    def _abort(self, message: engine_service_pb2.AbortRequest) -> None:
        """Aborts any request that the engine runs, or will run once its grammars are compiled."""
        try:
            check_bounds(message)
        except InvalidRequestError:
            return  # it has no answer of its own, and names nothing that can run
        indexes = tuple(message.indexes)
        call = self._running.get(message.request_id)
        if call is not None and call in self._compiling:
            call.aborts.append(indexes)
        else:
            self._engine.abort(message.request_id, indexes)

    def _cancel(self, name: str) -> None:
        call = self._running.get(name)
        if call is not None:
            if call in self._compiling:
                self._compiling[call].cancel()
            self._end(call, grpc.StatusCode.CANCELLED)
            self._close([call])

    # How requests end.

    def _fail(self, call: SessionCall, raised: Exception) -> None:
        error = as_folov_error(raised, call.method)
        self._end(call, status_code(error))
        self._failed.append((call, error))
        self._wake.set()

    def _end(self, call: SessionCall, code: grpc.StatusCode) -> None:
        """Frees the request's name and what it holds of the engine."""
        call.code = code
        if self._running.get(call.name) is call:
            del self._running[call.name]
        self._changed.pop(call, None)
        if call.stream is not None:
            self._engine.release(call.stream)

    def _close(self, ended: list[SessionCall]) -> None:
        """Closes requests that have nothing left to write, and empties the list."""
        for call in ended:
            self._open.discard(call)
            call.close(self._peer)
        ended.clear()

    def _lose_front_end(self) -> None:
        self._release_all()  # now, since a message may be stuck for long
        self._wake.set()

    def _release_all(self) -> None:
        for task in self._compiling.values():
            task.cancel()
        for call in list(self._running.values()):
            self._end(call, grpc.StatusCode.CANCELLED)
        self._close(list(self._open))

    # Messages to the front end.

    def _messages(self) -> Iterator[SessionEvents]:
        """Everything pending, in messages of bounded size."""
        outputs: list[types_pb2.CompletionOutput] = []
        failures: list[SessionFailure] = []
        num_bytes = 0
        for part in self._parts():
            size = part.ByteSize()
            if num_bytes and num_bytes + size > _MAX_BYTES:
                yield self._message(outputs, failures)
                outputs, failures, num_bytes = [], [], 0
            if isinstance(part, SessionFailure):
                failures.append(part)
            else:
                outputs.append(part)
            num_bytes += size
        if num_bytes or self._load_reporter.due or self._front_end.answer_due or self._scheduled:
            message = self._message(outputs, failures)
            if num_bytes or message.ByteSize():  # which takes time to count
                yield message

    def _parts(self) -> Iterator[types_pb2.CompletionOutput | SessionFailure]:
        """Everything pending. A request has ended once the part after its last one is requested."""
        while self._changed:
            call = next(iter(self._changed))
            del self._changed[call]
            yield from self._outputs(call)
        while self._failed:
            call, error = self._failed.popleft()
            yield SessionFailure(request_id=call.name, status=to_status(error).SerializeToString())
            self._ended.append(call)
        self._may_read.set()

    def _outputs(self, call: SessionCall) -> Iterator[types_pb2.CompletionOutput]:
        assert call.stream is not None
        # Read together: between two parts a message may be written, and more may arrive.
        pieces, error, complete = call.stream.drain(), call.stream.error, call.stream.complete
        if call.stream.scheduled and not call.scheduled_told:
            call.scheduled_told = True
            if not pieces:  # which would tell
                self._scheduled.append(call.name)
        try:
            parts = [piece.to_proto() for piece in pieces]
        except Exception as raised:
            self._fail(call, raised)
            return
        for part in parts:
            yield part
            if call.code is not None:  # it was cancelled meanwhile
                return
        if error is not None:
            self._fail(call, error)
        elif complete:
            self._end(call, grpc.StatusCode.OK)
            self._ended.append(call)

    def _message(
        self, outputs: list[types_pb2.CompletionOutput], failures: list[SessionFailure]
    ) -> SessionEvents:
        """A message of these parts, and of what is due beside them."""
        message = SessionEvents(
            failures=failures,
            load=self._load_reporter.changed_load(),
            answers_heartbeats=not self._greeted,
            scheduled=self._scheduled,
            heartbeat=self._front_end.answer(),
        )
        message.outputs.extend(outputs)
        self._greeted = True
        self._scheduled.clear()
        return message
