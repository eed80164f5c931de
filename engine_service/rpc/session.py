"""Session: many requests of one front end over one call.

Commands start requests on the AsyncEngine and end them. Whatever has come for any of them while a
message was being written is the next message: one a step where the front end keeps up, merged where
it lags. A request's failure is an event and harms no other. The end of the session, in whatever
way, releases all that it still has.
"""

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

import grpc

from engine_service.core.fork import Fork
from engine_service.core.request import Request
from engine_service.engine.async_engine import AsyncEngine
from engine_service.rpc.grammars import needs_grammar, take, with_matchers
from engine_service.rpc.load_reporter import LoadReporter
from engine_service.rpc.proto_chunks import proto_chunks
from engine_service.rpc.request_reader import read_fork, read_request
from engine_service.rpc.session_call import SessionCall
from folovllm.errors import FolovError, InvalidRequestError, status_code, to_status
from folovllm.request_names import check_name
from folovllm.serving.active_calls import ActiveCalls
from folovllm.serving.call_log import as_folov_error
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.v1 import engine_service_pb2, types_pb2

# A message is larger only where it is one piece, which by itself is within gRPC's limit.
_MOST_BYTES = MAX_MESSAGE_BYTES // 4
# Characters of a name that come back where it is refused for its length: 2 MiB at most.
_LONGEST_ECHO = MAX_MESSAGE_BYTES // 8
# Failures that wait to be written; no command is read while there are more.
_MOST_FAILURES = 1024

_METHOD = "/folovllm.v1.EngineService/"

SessionCommand = engine_service_pb2.SessionCommand
SessionEvents = engine_service_pb2.SessionEvents
SessionFailure = engine_service_pb2.SessionFailure


class Session:
    """One call of EngineService.Session. Belongs to the event loop."""

    def __init__(self, engine: AsyncEngine, active_calls: ActiveCalls, peer: str) -> None:
        self._engine = engine
        self._active_calls = active_calls
        self._peer = peer
        self._open: set[SessionCall] = set()  # until their last message is written
        self._running: dict[str, SessionCall] = {}  # those of them that have not ended
        self._compiling: dict[
            SessionCall, asyncio.Task[None]
        ] = {}  # those that wait for their grammars
        self._changed: dict[SessionCall, None] = {}  # those for which something has come, in order
        self._failed: deque[tuple[SessionCall, FolovError]] = deque()
        self._ended: list[
            SessionCall
        ] = []  # those whose end is in the message that is being written
        self._wake = asyncio.Event()
        self._may_read = asyncio.Event()
        self._load_reporter = LoadReporter(engine, self._wake.set)

    async def serve(
        self, commands: AsyncIterator[SessionCommand]
    ) -> AsyncGenerator[SessionEvents, None]:
        """Follows the commands and gives the messages, each when the one before it is written.

        Ends with the commands, or when the server has drained.
        """
        reader = asyncio.ensure_future(self._read(commands))
        drained = asyncio.ensure_future(self._active_calls.drained())
        for task in (reader, drained):
            task.add_done_callback(lambda _: self._wake.set())
        try:
            with self._load_reporter.watching():
                while not reader.done():
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
            for task in (reader, drained):
                task.cancel()
            await asyncio.gather(reader, drained, return_exceptions=True)

    # What the front end asks for.

    async def _read(self, commands: AsyncIterator[SessionCommand]) -> None:
        async for command in commands:
            self._follow(command)
            while len(self._failed) >= _MOST_FAILURES:
                self._may_read.clear()
                await self._may_read.wait()

    def _follow(self, command: SessionCommand) -> None:
        kind = command.WhichOneof("command")
        if kind == "cancel":
            self._cancel(command.cancel)
        elif kind == "abort":
            self._abort(command.abort)
        elif kind == "fork":
            self._start("Fork", "fork_id", command.fork.fork_id, lambda: self._fork(command.fork))
        else:
            name = command.generate.request_id
            self._start("Generate", "request_id", name, lambda: self._request(command.generate))

    def _request(self, message: types_pb2.Request) -> Request:
        return read_request(message, self._engine.info, self._engine.default_sampling_params)

    def _fork(self, message: types_pb2.ForkRequest) -> Fork:
        check_name("request_id", message.request_id)
        return read_fork(message, self._engine.info, self._engine.default_sampling_params)

    def _start(
        self, method: str, name_field: str, name: str, read: Callable[[], Request | Fork]
    ) -> None:
        """Starts a request; whatever is wrong with it becomes its failure."""
        call = SessionCall(_METHOD + method, name[:_LONGEST_ECHO])
        self._open.add(call)
        try:
            call.counted.enter_context(self._active_calls.entered(stream=True))
            check_name(name_field, name)
            if name in self._running:
                raise InvalidRequestError(name_field, f"{name} is running already")
            asked = read()
            self._running[name] = call
            if needs_grammar(asked):
                self._engine.check_admissible(len(self._compiling))
                task = asyncio.ensure_future(self._run_with_grammars(call, asked))
                task.add_done_callback(lambda _: self._compiling.pop(call))
                self._compiling[call] = task
            else:
                self._run(call, asked)
        except Exception as error:
            self._fail(call, error)

    async def _run_with_grammars(self, call: SessionCall, asked: Request | Fork) -> None:
        try:
            self._run(call, await with_matchers(self._engine, asked))
        except Exception as error:
            self._fail(call, error)

    def _run(self, call: SessionCall, asked: Request | Fork) -> None:
        call.stream = take(self._engine, asked)
        call.stream.notify = functools.partial(self._tell, call)
        for indexes in call.aborts:
            self._engine.abort(call.name, indexes)

    def _tell(self, call: SessionCall) -> None:
        self._changed[call] = None
        self._wake.set()

    def _abort(self, message: engine_service_pb2.AbortRequest) -> None:
        """Aborts any request that the engine runs, or will run when a grammar is ready."""
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
        """Gives back the request's name and all that it has of the engine."""
        call.code = code
        if self._running.get(call.name) is call:
            del self._running[call.name]
        self._changed.pop(call, None)
        if call.stream is not None:
            self._engine.release(call.stream)

    def _close(self, ended: list[SessionCall]) -> None:
        """Closes requests of which nothing remains to be written, and empties the list."""
        for call in ended:
            self._open.discard(call)
            call.close(self._peer)
        ended.clear()

    def _release_all(self) -> None:
        for task in self._compiling.values():
            task.cancel()
        for call in list(self._running.values()):
            self._end(call, grpc.StatusCode.CANCELLED)
        self._close(list(self._open))

    # What the front end is told.

    def _messages(self) -> Iterator[SessionEvents]:
        """All that is pending, in messages of bounded size."""
        outputs: list[types_pb2.CompletionOutput] = []
        failures: list[SessionFailure] = []
        num_bytes = 0
        for part in self._parts():
            size = part.ByteSize()
            if num_bytes and num_bytes + size > _MOST_BYTES:
                yield self._message(outputs, failures)
                outputs, failures, num_bytes = [], [], 0
            if isinstance(part, SessionFailure):
                failures.append(part)
            else:
                outputs.append(part)
            num_bytes += size
        if num_bytes or self._load_reporter.due:
            message = self._message(outputs, failures)
            if num_bytes or message.HasField("load"):
                yield message

    def _parts(self) -> Iterator[types_pb2.CompletionOutput | SessionFailure]:
        """What is pending. A request has ended when what follows its last part is asked for."""
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
        # Read together: between two parts a message may be written, and more may come.
        pieces, error, complete = call.stream.take(), call.stream.error, call.stream.complete
        try:
            parts = [part for piece in pieces for part in proto_chunks(piece)]
        except Exception as raised:
            self._fail(call, raised)
            return
        for part in parts:
            yield part
            if call.code is not None:  # cancelled meanwhile
                return
        if error is not None:
            self._fail(call, error)
        elif complete:
            self._end(call, grpc.StatusCode.OK)
            self._ended.append(call)

    def _message(
        self, outputs: list[types_pb2.CompletionOutput], failures: list[SessionFailure]
    ) -> SessionEvents:
        """A message of these parts, and of the load where that is not what was told last."""
        message = SessionEvents(failures=failures, load=self._load_reporter.take())
        message.outputs.extend(outputs)
        return message
