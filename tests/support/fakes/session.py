"""FakeSession: EngineService.Session on top of a servicer's own Generate, Fork and Abort."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from folovllm.errors import FolovError, ServerError, to_status
from folovllm.v1 import engine_service_pb2, types_pb2

Events = engine_service_pb2.SessionEvents


class _Context:
    """What the servicer's methods ask of a call that has no deadline."""

    def time_remaining(self) -> float | None:
        return None


class FakeSession:
    """One open session. Pieces are never merged; one message has what has come since the last.

    Of a request with a handle, what is only token ids goes into columns, if the servicer has them.
    """

    def __init__(
        self, servicer: Any, commands: AsyncIterator[Any], load: engine_service_pb2.GetLoadResponse
    ) -> None:
        self._servicer = servicer
        self._commands = commands
        self._events: asyncio.Queue[Events | FolovError | None] = asyncio.Queue()
        self._requests: dict[str, asyncio.Task[None]] = {}
        self.cancelled: list[str] = []
        """The names that were cancelled, also those that did not run."""
        self.heartbeats = 0
        """How many have come."""
        self.put(Events(load=load, answers_heartbeats=servicer.answers_heartbeats))
        self._reader = asyncio.create_task(self._read())

    async def events(self) -> AsyncIterator[Events]:
        """The messages, until the caller half-closes or `end` is called."""
        while True:
            waiting = [await self._events.get()]
            while not self._events.empty():
                waiting.append(self._events.get_nowait())
            messages = [Events()]
            for each in waiting:
                if isinstance(each, Events):
                    if not _may_join(messages[-1], each):
                        messages.append(Events())
                    messages[-1].MergeFrom(each)
            await self._servicer.speaks.wait()
            for message in messages:
                yield message
            for each in waiting:
                if isinstance(each, FolovError):
                    raise each
                if each is None:
                    return

    def put(self, events: Events) -> None:
        self._events.put_nowait(events)

    def end(self, error: FolovError | None) -> None:
        """Ends it after what has come."""
        self._events.put_nowait(error)

    def runs(self, name: str) -> bool:
        """Whether a request of that name runs."""
        return name in self._requests

    def fail_requests(self, error: FolovError) -> None:
        """Ends all that runs with an error."""
        status = to_status(error).SerializeToString()
        for name, task in self._requests.items():
            task.cancel()
            failure = engine_service_pb2.SessionFailure(request_id=name, status=status)
            self.put(Events(failures=[failure]))

    def close(self) -> None:
        for task in (self._reader, *self._requests.values()):
            task.cancel()

    async def _read(self) -> None:
        async for command in self._commands:
            kind = command.WhichOneof("command")
            if kind == "abort":
                await self._servicer.Abort(command.abort, _Context())
            elif kind == "cancel":
                self.cancelled.append(command.cancel)
                if command.cancel in self._requests:
                    self._requests[command.cancel].cancel()
            elif kind == "fork":
                outputs = self._servicer.Fork(command.fork, _Context())
                num_finals = len(command.fork.branches)
                self._run(command.fork.fork_id, outputs, num_finals, command.handle)
            elif kind == "heartbeat":
                self.heartbeats += 1
                self.put(Events(heartbeat=engine_service_pb2.Heartbeat()))
            else:
                request = command.generate
                if command.HasField("moved"):
                    self._servicer.moves.append(command.moved)
                outputs = self._servicer.Generate(request, _Context())
                num_finals = len(request.continued.outputs) or request.sampling_params.n or 1
                self._run(request.request_id, outputs, num_finals, command.handle)
        self.end(None)

    def _run(self, name: str, outputs: Any, num_finals: int, handle: int) -> None:
        handle = handle if self._servicer.sends_columns else 0
        task = asyncio.create_task(self._send(name, outputs, num_finals, handle))
        self._requests[name] = task
        task.add_done_callback(lambda _: self._requests.pop(name, None))

    async def _send(self, name: str, outputs: Any, num_finals: int, handle: int) -> None:
        """Sends the outputs of a request; where final ones lack at the end, an error."""
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    self.put(_columns(output, handle) or Events(outputs=[output]))
                    num_finals -= output.finish_reason != 0
            if num_finals > 0:
                raise ServerError("the engine ended the stream without a final message")
        except FolovError as error:
            failure = engine_service_pb2.SessionFailure(
                request_id=name, status=to_status(error).SerializeToString()
            )
            self.put(Events(failures=[failure]))


def _may_join(message: Events, events: Events) -> bool:
    """Whether it stays true that columns have each continuation once, and come before outputs."""
    if not events.HasField("columns"):
        return True
    return not message.outputs and not {*message.columns.handles} & {*events.columns.handles}


def _columns(output: types_pb2.CompletionOutput, handle: int) -> Events | None:
    """An output as a row, if it is nothing but token ids of a request that has a handle."""
    fields = {field.name for field, _ in output.ListFields()}
    if not handle or "token_ids" not in fields or fields - {"request_id", "index", "token_ids"}:
        return None
    columns = engine_service_pb2.OutputColumns(
        handles=[handle + output.index],
        num_token_ids=[len(output.token_ids)],
        token_ids=output.token_ids,
    )
    return Events(columns=columns)
