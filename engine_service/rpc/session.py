"""Session: many requests of one front end over one call.

Commands start requests on the AsyncEngine and end them, and the Outbox tells what becomes of them:
one message a step if the front end keeps up, merged if it lags. A request's failure is an event and
affects no other. However the session ends, it releases its requests; it also ends when a front end
that sends heartbeats is silent.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Generator

import grpc

from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.commands import Fork, Generate, Matchers
from engine_service.rpc.front_end import FrontEnd
from engine_service.rpc.load_reports import LoadReporter
from engine_service.rpc.open_sessions import OpenSessions
from engine_service.rpc.outbox import Outbox
from engine_service.rpc.preparations import Preparations
from engine_service.rpc.request_reader import fork_steps, read_generate
from engine_service.rpc.session_call import SessionCall, check_handle
from folovllm.bounds.check_bounds import check_bounds
from folovllm.errors import (
    InvalidRequestError,
    ServerError,
    UnavailableError,
    status_code,
)
from folovllm.liveness import DEFAULT_LIVENESS, LivenessConfig
from folovllm.serving.active_calls import ActiveCalls
from folovllm.serving.call_log import as_folov_error
from folovllm.serving.request_names import MAX_NAME_BYTES, check_name
from folovllm.serving.turns import LONG_BYTES
from folovllm.v1 import engine_service_pb2, types_pb2

_METHOD = "/folovllm.v1.EngineService/"

SessionCommand = engine_service_pb2.SessionCommand
SessionEvents = engine_service_pb2.SessionEvents
StartMessage = types_pb2.Request | types_pb2.ForkRequest
Steps = Generator[None, None, Generate | Fork]


class Session:
    """One call of EngineService.Session. Belongs to the event loop."""

    def __init__(
        self,
        engine: AsyncEngine,
        active_calls: ActiveCalls,
        peer: str,
        liveness: LivenessConfig = DEFAULT_LIVENESS,
        sessions: OpenSessions | None = None,
    ) -> None:
        """`sessions` are the engine's, which has no other ones by default."""
        self._engine = engine
        self._active_calls = active_calls
        self._peer = peer
        self._sessions = sessions or OpenSessions(engine)
        self._turns = self._sessions.turns
        self._open: set[SessionCall] = set()  # until their last message is written
        self._running: dict[str, SessionCall] = {}  # those of them that have not ended
        self._preparations = Preparations()  # those of them that the engine does not have yet
        self._wake = asyncio.Event()
        self._may_read = asyncio.Event()
        self._front_end = FrontEnd(peer, liveness, self._lose_front_end)
        self._load = LoadReporter(self._sessions.load_reports, self._wake.set)
        complete = functools.partial(self._end, code=grpc.StatusCode.OK)
        self._outbox = Outbox(self._load, self._front_end, complete, self._fail, self._wake.set)

    async def serve(
        self, commands: AsyncIterator[SessionCommand]
    ) -> AsyncGenerator[SessionEvents, None]:
        """Executes the commands and yields the messages, each when the one before is written.

        Ends with the commands, or when the server has drained. Raises UnavailableError if the
        front end is lost, and QueueFullError if the engine has too many sessions.
        """
        with self._sessions.entered(), self._load.watching():
            reader = asyncio.ensure_future(self._read(commands))
            drained = asyncio.ensure_future(self._drained())
            for task in (reader, drained):
                task.add_done_callback(lambda _: self._wake.set())
            try:
                while not reader.done():
                    if self._front_end.is_lost:
                        raise UnavailableError("the front end is silent")
                    last = drained.done()
                    for message in self._outbox.messages():
                        yield message
                        self._close(self._outbox.ended)
                        if message.ByteSize() > LONG_BYTES:
                            await self._turns.take()
                    self._may_read.set()
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

    async def _drained(self) -> None:
        """Returns when the server has drained; tells the front end when that begins."""
        await self._active_calls.draining()
        self._outbox.drains = True
        self._wake.set()
        await self._active_calls.drained()

    # Commands of the front end.

    async def _read(self, commands: AsyncIterator[SessionCommand]) -> None:
        async for command in commands:
            if _is_long(command.generate):
                await self._turns.take()  # it is read at once; a fork pauses by itself
            self._execute(command)
            while self._outbox.is_full:
                self._may_read.clear()
                await self._may_read.wait()

    def _execute(self, message: SessionCommand) -> None:
        self._front_end.heard()
        kind = message.WhichOneof("command")
        moved = message.moved if message.HasField("moved") else None
        if kind == "cancel":
            self._cancel(message.cancel)
        elif kind == "heartbeat":
            self._front_end.asks()
            self._sessions.meet_front_end()
            self._wake.set()
        elif kind == "abort":
            self._abort(message.abort)
        elif kind == "fork":
            call = SessionCall(_METHOD + "Fork", message.fork.fork_id, message.handle)
            self._start(call, "fork_id", message.fork, moved)
        else:
            call = SessionCall(_METHOD + "Generate", message.generate.request_id, message.handle)
            self._start(call, "request_id", message.generate, moved)

    def _start(
        self,
        call: SessionCall,
        name_field: str,
        message: StartMessage,
        moved: engine_service_pb2.Moved | None,
    ) -> None:
        """Starts a request; anything wrong with it becomes its failure."""
        name, call.name = call.name, call.name[:MAX_NAME_BYTES]
        self._open.add(call)
        try:
            call.counted.enter_context(self._active_calls.entered(stream=True))
            check_name(name_field, name)
            check_handle(call.handle)
            check_bounds(message)
            if name in self._running:
                raise InvalidRequestError(name_field, f"{name} is running already")
            steps = self._steps(message, moved)
            command = None if self._parent_of(message) else _first_step(steps)
            self._running[name] = call
            if command is None or command.follows_grammar:
                self._prepare(call, message, steps, command)
            else:
                self._submit(call, command)
        except Exception as error:
            self._fail(call, error)

    def _steps(self, message: StartMessage, moved: engine_service_pb2.Moved | None) -> Steps:
        """Reads a request, in steps if that takes long."""
        if isinstance(message, types_pb2.Request):
            return read_generate(message, self._engine, moved)
        if moved is not None:
            raise InvalidRequestError("moved", "each branch moves as a request of its own")
        check_name("request_id", message.request_id)
        return (yield from fork_steps(message, self._engine))

    def _parent_of(self, message: StartMessage) -> SessionCall | None:
        """The parent of a fork if the engine does not have it yet."""
        if isinstance(message, types_pb2.Request):
            return None
        parent = self._running.get(message.request_id)
        return parent if parent is not None and parent in self._preparations else None

    def _prepare(
        self,
        call: SessionCall,
        message: StartMessage,
        steps: Steps,
        command: Generate | Fork | None,
    ) -> None:
        """Submits a request that is not read to its end, or whose grammars are not compiled."""
        if command is None:
            self._engine.check_admissible(len(self._preparations))
        else:
            call.ticket = self._engine.reserve(command)
        parent = self._parent_of(message)

        async def submit() -> None:
            try:
                read = command
                if read is None:
                    read = await self._read_on(message, steps, parent)
                    call.ticket = self._engine.reserve(read)
                matchers = await self._engine.make_matchers(read, self._peer)
                self._submit(call, read, matchers)
            except Exception as error:
                self._fail(call, error)

        def end(error: BaseException | None) -> None:
            if error is not None and call.code is None:
                # It is no Exception, or it would be the request's failure already.
                self._fail(call, ServerError("internal error; the server's log says more"))

        self._preparations.start(call, submit(), end)

    async def _read_on(
        self, message: StartMessage, steps: Steps, parent: SessionCall | None
    ) -> Generate | Fork:
        with self._sessions.holding(message.ByteSize()):
            await self._preparations.wait_for(parent)
            await self._turns.take()
            return await self._turns.run(steps)

    def _submit(self, call: SessionCall, command: Generate | Fork, matchers: Matchers = ()) -> None:
        call.stream = self._engine.submit(command, matchers, call.ticket)
        call.stream.notify = functools.partial(self._outbox.add, call)
        if call.handle:
            call.stream.send_rows(self._outbox, call.handle)
        if call.aborted is not None:
            self._engine.abort(call.name, call.aborted)

    def _abort(self, message: engine_service_pb2.AbortRequest) -> None:
        """Aborts any request that the engine runs, or will run once it is prepared."""
        try:
            check_bounds(message)
        except InvalidRequestError:
            return  # it has no answer of its own, and names nothing that can run
        call = self._running.get(message.request_id)
        if call is not None and call in self._preparations:
            call.abort(message.indexes)
        else:
            self._engine.abort(message.request_id, message.indexes)

    def _cancel(self, name: str) -> None:
        call = self._running.get(name)
        if call is not None:
            self._preparations.cancel(call)
            self._end(call, grpc.StatusCode.CANCELLED)
            self._close([call])

    # How requests end.

    def _fail(self, call: SessionCall, raised: Exception) -> None:
        error = as_folov_error(raised, call.method)
        self._end(call, status_code(error))
        self._outbox.add_failure(call, error)

    def _end(self, call: SessionCall, code: grpc.StatusCode) -> None:
        """Frees the request's name and what it holds of the engine."""
        call.code = code
        if self._running.get(call.name) is call:
            del self._running[call.name]
        self._outbox.forget(call)
        if call.stream is not None:
            self._engine.release(call.stream)
        elif call.ticket is not None:
            self._engine.withdraw(call.ticket)

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
        self._preparations.cancel_all()
        for call in list(self._running.values()):
            self._end(call, grpc.StatusCode.CANCELLED)
        self._close(list(self._open))


def _is_long(message: types_pb2.Request) -> bool:
    """Whether a request waits for its turn.

    One out of bounds does not, since it is refused at once: a message may have millions of entries,
    and sessions that wait together would keep all of them.
    """
    if message.ByteSize() <= LONG_BYTES:
        return False
    try:
        check_bounds(message)
    except InvalidRequestError:
        return False
    return True


def _first_step(steps: Steps) -> Generate | Fork | None:
    """What the steps return, if it takes only one."""
    try:
        next(steps)
    except StopIteration as end:
        command: Generate | Fork = end.value
        return command
    return None
