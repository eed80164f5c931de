"""Network: channels of front ends to engines, with the interface of gRPC that they use.

Every message is serialized when it is sent, so nothing is shared by accident.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextvars import Context
from random import Random
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from folovllm.errors import FolovError, status_code, trailing_metadata
from folovllm.serving.call_log import as_folov_error
from folovllm.v1 import engine_service_pb2, types_pb2
from simulation.pipes import End, Line, Pipe
from simulation.virtual_loop import Process, VirtualLoop

# Seconds between two attempts to connect, and until one is given up.
_RETRY = 0.25
_CONNECT_TIMEOUT = 20.0

Commands = AsyncIterator[engine_service_pb2.SessionCommand]
Events = AsyncIterator[engine_service_pb2.SessionEvents]
Answer = Callable[[Any], Coroutine[Any, Any, Message]]


class Served(Protocol):
    """What a network finds at an address."""

    process: Process

    def take(self, command: engine_service_pb2.SessionCommand) -> None:
        """A session is about to read a command."""

    def session(self, commands: Commands) -> Events:
        """Serves a session."""

    def statuses(self) -> AsyncIterator[int]:
        """The health now, and each that follows."""

    async def model_info(self, request: types_pb2.GetModelInfoRequest) -> types_pb2.ModelInfo:
        """What is served."""

    async def score(self, request: types_pb2.ScoreRequest) -> types_pb2.ScoreResponse:
        """The scores."""


def rpc_error(code: grpc.StatusCode, details: str, metadata: Any = ()) -> grpc.aio.AioRpcError:
    """What a call of gRPC raises."""
    pairs = grpc.aio.Metadata(*metadata)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), pairs, details)


def _reset() -> grpc.aio.AioRpcError:
    return rpc_error(grpc.StatusCode.UNAVAILABLE, "connection reset by peer")


def _of(error: FolovError) -> grpc.aio.AioRpcError:
    return rpc_error(status_code(error), str(error), trailing_metadata(error))


class Network:
    """What is reachable, and every line that is open."""

    def __init__(self, loop: VirtualLoop, rng: Random, max_delay: float) -> None:
        self.loop = loop
        self.servers: dict[str, Served] = {}
        """By address, those that listen."""
        self.lines: dict[tuple[str, str], Line] = {}
        """By front end and address, the latest."""
        self.context = Context()
        """Of what belongs to no process."""
        self._all: list[tuple[tuple[str, str], Line]] = []
        self._cut: set[tuple[str, str]] = set()
        self._rng = rng
        self._max_delay = max_delay
        self._healed = asyncio.Event()

    def connect(self, front_end: str, address: str) -> Line | None:
        """A new line; None if nothing listens."""
        if address not in self.servers:
            return None
        line = Line(self.loop, Random(self._rng.getrandbits(32)), self._max_delay)
        line.is_cut = self.is_cut(front_end, address)
        self.lines[front_end, address] = line
        self._all = [each for each in self._all if each[1].is_open or each[1].is_cut]
        self._all.append(((front_end, address), line))
        return line

    def is_cut(self, front_end: str, address: str) -> bool:
        """Whether nothing passes between the two."""
        return (front_end, address) in self._cut

    def cut(self, front_end: str, address: str) -> None:
        """Lets nothing pass between the two from now on."""
        self._cut.add((front_end, address))
        for ends, line in self._all:
            if ends == (front_end, address):
                line.is_cut = True

    def heal(self, front_end: str, address: str) -> None:
        """Lets it pass again."""
        if (front_end, address) not in self._cut:
            return
        self._cut.discard((front_end, address))
        for ends, line in list(self._all):
            if ends == (front_end, address):
                line.heal()
        self._healed.set()
        self._healed = asyncio.Event()

    async def until_healed(self) -> None:
        """Returns when some cut is healed."""
        await self._healed.wait()

    def break_line(self, front_end: str, address: str, lose: bool) -> None:
        """Breaks a connection; both ends learn it."""
        line = self.lines.get((front_end, address))
        if line is not None and line.is_open:
            line.is_open = False
            line.break_client(_reset(), lose)
            line.shut_down_server()

    def stop_listening(self, address: str, lose: bool) -> None:
        """An engine is gone; front ends learn it as soon as they can."""
        self.servers.pop(address, None)
        for (_, target), line in list(self._all):
            if target == address and line.is_open:
                line.is_open = False
                line.break_client(_reset(), lose)

    def leave(self, front_end: str) -> None:
        """A front end is gone; engines learn it as soon as they can."""
        for (name, _), line in list(self._all):
            if name == front_end and line.is_open:
                line.is_open = False
                line.shut_down_server()


class Channel:
    """A front end's connection to an address, made again whenever a call needs it."""

    def __init__(self, network: Network, front_end: str, address: str) -> None:
        self._network = network
        self._ends = front_end, address
        self._line: Line | None = None
        self._connecting: asyncio.Task[Line | None] | None = None
        self._closed = False
        self.engine = EngineStub(self)
        self.health = HealthStub(self)

    @property
    def server(self) -> Served:
        """What the line leads to."""
        return self._network.servers[self._ends[1]]

    async def line(self, wait_for_ready: bool = False) -> Line:
        """An open line. Raises AioRpcError if there is none."""
        while self._line is None or not self._line.is_open:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
                self._connecting.add_done_callback(self._connected)
            line = await asyncio.shield(self._connecting)
            if line is None:
                if not wait_for_ready:
                    raise rpc_error(grpc.StatusCode.UNAVAILABLE, "failed to connect")
                await asyncio.sleep(_RETRY)
        return self._line

    async def close(self) -> None:
        """Closes the connection and ends what runs over it."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        line = self._line
        if line is not None and line.is_open:
            line.is_open = False
            for pipe in list(line.down):
                pipe.fail(asyncio.CancelledError())
            line.stop_writers()
            line.shut_down_server()

    def _connected(self, task: asyncio.Task[Line | None]) -> None:
        self._connecting = None
        if not task.cancelled():
            self._line = task.result()

    async def _connect(self) -> Line | None:
        network, ends = self._network, self._ends
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                while network.is_cut(*ends):
                    await network.until_healed()
                server = network.servers.get(ends[1])
                if server is None:
                    return None
                accepted: asyncio.Future[None] = network.loop.create_future()
                server.process.call(network.loop.call_soon, _accept, accepted)
                await accepted
        except TimeoutError:
            return None
        return network.connect(*ends) if network.servers.get(ends[1]) is server else None


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _accept(accepted: asyncio.Future[None]) -> None:
    if not accepted.done():
        accepted.set_result(None)


class EngineStub:
    """As the stub of EngineService."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def Session(self) -> "SessionCall":
        return SessionCall(self._channel)

    def GetModelInfo(
        self, request: types_pb2.GetModelInfoRequest, timeout: float | None = None
    ) -> "UnaryCall":
        answer = _Asked("model_info", types_pb2.GetModelInfoRequest, types_pb2.ModelInfo)
        return UnaryCall(self._channel, request, answer, timeout)

    def Score(self, request: types_pb2.ScoreRequest, timeout: float | None = None) -> "UnaryCall":
        answer = _Asked("score", types_pb2.ScoreRequest, types_pb2.ScoreResponse)
        return UnaryCall(self._channel, request, answer, timeout)


class HealthStub:
    """As the stub of grpc.health.v1.Health."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def Watch(
        self, request: health_pb2.HealthCheckRequest, wait_for_ready: bool = False
    ) -> "WatchCall":
        return WatchCall(self._channel, wait_for_ready)


class _StreamCall:
    """A call that receives messages over a pipe, once it has a line."""

    def __init__(self, channel: Channel, wait_for_ready: bool) -> None:
        self._channel = channel
        self._wait_for_ready = wait_for_ready
        self._down: Pipe | None = None
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None  # at the server
        self._opening = asyncio.create_task(self._open())
        self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())

    def cancel(self) -> None:
        self._opening.cancel()
        if self._down is not None and self._line is not None:
            self._line.down.pop(self._down, None)
            self._down.fail(asyncio.CancelledError())
            if self._task is not None:
                self._tell(self._task)

    def _tell(self, task: asyncio.Task[None]) -> None:
        """Has the server's part cancelled, when it can learn of it."""
        line = self._line
        assert line is not None
        if line.is_cut:
            line.hold(lambda: _cancel(task))
        else:
            line.loop.call_later(line.delay(), task.cancel, context=line.context)

    async def _open(self) -> None:
        line = self._line = await self._channel.line(self._wait_for_ready)
        down = self._down = Pipe(line)
        line.down[down] = None
        self._prepare(line)
        server = self._channel.server
        task = self._task = server.process.start(self._serve(server, down))
        line.tasks[task] = None
        task.add_done_callback(line.tasks.pop)

    def _prepare(self, line: Line) -> None:
        """Has the line; the server begins next."""

    async def _serve(self, server: Served, down: Pipe) -> None:
        raise NotImplementedError

    async def _receive(self) -> bytes:
        if self._down is None:
            await asyncio.shield(self._opening)
        assert self._down is not None
        return await self._down.receive()


class SessionCall(_StreamCall):
    """As the call of Session."""

    def __init__(self, channel: Channel) -> None:
        self._up: Pipe | None = None
        super().__init__(channel, wait_for_ready=False)

    def __aiter__(self) -> "SessionCall":
        return self

    async def __anext__(self) -> engine_service_pb2.SessionEvents:
        return engine_service_pb2.SessionEvents.FromString(await self._receive())

    async def write(self, command: engine_service_pb2.SessionCommand) -> None:
        data = command.SerializeToString()
        if self._up is None:
            await asyncio.shield(self._opening)
        assert self._up is not None
        await self._up.send(data)

    def _prepare(self, line: Line) -> None:
        self._up = Pipe(line)
        line.up.append(self._up)

    async def _serve(self, server: Served, down: Pipe) -> None:
        assert self._up is not None
        messages = server.session(_commands(self._up, server))
        try:
            async for events in messages:
                await down.send(events.SerializeToString())
            down.put(End(StopAsyncIteration()))
        except Exception as error:
            down.put(End(_of(as_folov_error(error, "Session"))))
        finally:
            await messages.aclose()  # type: ignore[attr-defined]


async def _commands(up: Pipe, server: Served) -> Commands:
    while True:
        command = engine_service_pb2.SessionCommand.FromString(await up.receive())
        server.take(command)
        yield command


class WatchCall(_StreamCall):
    """As the call of Watch."""

    async def read(self) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse.FromString(await self._receive())

    async def _serve(self, server: Served, down: Pipe) -> None:
        try:
            async for status in server.statuses():
                response = health_pb2.HealthCheckResponse(status=status)
                await down.send(response.SerializeToString())
        except FolovError as error:
            down.put(End(_of(error)))


class _Asked:
    """A method with one request and one answer."""

    def __init__(self, method: str, request: type[Message], answer: type[Message]) -> None:
        self.method, self.request, self.answer = method, request, answer


class UnaryCall(_StreamCall):
    """As a call with one answer."""

    def __init__(
        self, channel: Channel, request: Message, asked: _Asked, timeout: float | None
    ) -> None:
        self._data, self._asked = request.SerializeToString(), asked
        self._timeout = timeout
        super().__init__(channel, wait_for_ready=False)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    async def _result(self) -> Message:
        try:
            async with asyncio.timeout(self._timeout):
                return self._asked.answer.FromString(await self._receive())
        except TimeoutError:
            self.cancel()
            raise rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None

    async def _serve(self, server: Served, down: Pipe) -> None:
        assert self._line is not None
        await asyncio.sleep(self._line.delay())
        try:
            request = self._asked.request.FromString(self._data)
            answer = await getattr(server, self._asked.method)(request)
            down.put(answer.SerializeToString())
        except Exception as error:
            down.put(End(_of(as_folov_error(error, self._asked.method))))
