"""An engine service with a fake model on a real socket, and a front end that holds a session."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.rpc import status_pb2

from engine_service.config import SchedulerConfig
from engine_service.engine.async_engine import AsyncEngine
from engine_service.servicer import EngineServicer
from folovllm.errors import DETAILS_KEY, FolovError, from_rpc_error, from_status
from folovllm.liveness import DEFAULT_LIVENESS, LivenessConfig
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.serving.channel import CLIENT_OPTIONS
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2
from support.fakes.engine_factory import make_engine
from support.integrity import check_integrity

PROMPT = [3, 1, 4, 1, 5]
NUM_BLOCKS = 64
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def ask(name: str, **params: object) -> types_pb2.Request:
    """A greedy request of exact length."""
    params = {"temperature": 0.0, "seed": 7, "ignore_eos": True} | params
    return types_pb2.Request(
        request_id=name,
        prompt_token_ids=PROMPT,
        sampling_params=types_pb2.SamplingParams(**params),  # type: ignore[arg-type]
    )


def ask_fork(parent: str, name: str, **params: int) -> types_pb2.ForkRequest:
    """A fork into one branch."""
    branch = types_pb2.SamplingParams(**params)  # type: ignore[arg-type]
    return types_pb2.ForkRequest(request_id=parent, fork_id=name, branches=[branch])


class EngineFixture:
    """One engine service and a stub that talks to it."""

    def __init__(
        self, max_num_waiting: int = 300, liveness: LivenessConfig = DEFAULT_LIVENESS
    ) -> None:
        self.max_num_waiting = max_num_waiting
        self.llm_engine, self.runner = make_engine()
        self.engine = AsyncEngine(
            lambda: self.llm_engine, SchedulerConfig(max_num_waiting=max_num_waiting)
        )
        self.server = GrpcServer(ServerConfig(), ENGINE_SERVICE)
        engine_service_pb2_grpc.add_EngineServiceServicer_to_server(
            EngineServicer(self.engine, self.server.active_calls, liveness), self.server.grpc
        )
        self.address = f"127.0.0.1:{self.server.bind()}"
        self.channel = grpc.aio.insecure_channel(self.address, CLIENT_OPTIONS)
        self.stub: engine_service_pb2_grpc.EngineServiceAsyncStub = (
            engine_service_pb2_grpc.EngineServiceStub(self.channel)
        )

    async def start(self) -> None:
        await self.server.start()
        await self.engine.start()
        await self.server.set_serving(True)

    async def stop(self) -> None:
        self.runner.release()
        await self.channel.close()
        await self.server.drain()
        await self.engine.stop()
        check_integrity(self.llm_engine.scheduler)

    async def generate(self, request: types_pb2.Request) -> RequestOutput:
        """The same request as a call of its own."""
        try:
            return RequestOutput.join(
                [
                    CompletionOutput.from_proto(message)
                    async for message in self.stub.Generate(request)
                ]
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    async def until_requests(self, number: int) -> None:
        """Returns when the engine has so many requests; pytest's timeout bounds it."""
        while self.engine.num_requests != number:
            await asyncio.sleep(0)

    async def until_held(self) -> None:
        """Returns when the runner holds the engine's thread, which takes no commands meanwhile."""
        while not self.runner.is_held:
            await asyncio.sleep(0)

    async def until_closed(self) -> None:
        """Returns when no one reads any of the requests that the engine still has."""
        while not all(stream._closed for stream in self.engine._streams.values()):
            await asyncio.sleep(0)

    async def until_free(self) -> None:
        """Returns when nothing is held any more."""
        while self.engine.num_requests or self.engine.load.num_free_kv_blocks != NUM_BLOCKS:
            await asyncio.sleep(0)
        assert self.engine.num_admissible == self.max_num_waiting


class FrontEnd:
    """One session: sends commands, and keeps what comes by name."""

    def __init__(self, fixture: EngineFixture, has_handles: bool = True) -> None:
        """`has_handles` gives each request a handle, so that token ids come in columns."""
        self.call: Any = fixture.stub.Session()
        self._has_handles = has_handles
        self._names: dict[int, str] = {}  # by the hundreds of their handles
        self.messages: list[engine_service_pb2.SessionEvents] = []
        self.outputs: dict[str, RequestOutput] = {}
        self.failures: dict[str, FolovError] = {}
        self.loads: list[engine_service_pb2.GetLoadResponse] = []
        self._changed = asyncio.Event()
        self.ended = asyncio.ensure_future(self._read())

    async def send(self, **command: Any) -> None:
        """Sends one command."""
        message = engine_service_pb2.SessionCommand(**command)
        if self._has_handles and message.WhichOneof("command") in ("generate", "fork"):
            self._names[len(self._names) + 1] = message.generate.request_id or message.fork.fork_id
            message.handle = 100 * len(self._names)
        await self.call.write(message)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when messages have made it true; pytest's timeout bounds it."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def result(self, name: str) -> RequestOutput:
        """A request's whole output; raises its failure."""
        await self.until(lambda: name in self.failures or self.finished(name))
        if name in self.failures:
            raise self.failures[name]
        return self.outputs[name]

    def finished(self, name: str, n: int = 1) -> bool:
        """Whether the final messages of all n continuations of a request have come."""
        outputs = self.outputs.get(name, RequestOutput()).outputs
        return len(outputs) == n and all(output.finished() for output in outputs)

    async def _read(self) -> None:
        async for message in self.call:
            self.messages.append(message)
            for output in [*self._rows(message.columns), *message.outputs]:
                joined = self.outputs.setdefault(output.request_id, RequestOutput())
                joined.add(CompletionOutput.from_proto(output))
            for failure in message.failures:
                status = status_pb2.Status.FromString(failure.status)
                self.failures[failure.request_id] = from_status(
                    _CODES[status.code], status.message, ((DETAILS_KEY, failure.status),)
                )
            if message.HasField("load"):
                self.loads.append(message.load)
            self._changed.set()

    def _rows(
        self, columns: engine_service_pb2.OutputColumns
    ) -> Iterator[types_pb2.CompletionOutput]:
        """What columns say, as outputs."""
        handles, token_ids = columns.handles, iter(columns.token_ids)
        assert len({*handles}) == len(handles)
        for handle, count in zip(handles, columns.num_token_ids or [1] * len(handles), strict=True):
            number, index = divmod(handle, 100)
            ids = [next(token_ids) for _ in range(count)]
            assert ids
            yield types_pb2.CompletionOutput(
                request_id=self._names[number], index=index, token_ids=ids
            )
        assert not [*token_ids]


@asynccontextmanager
async def front_end(fixture: EngineFixture, has_handles: bool = True) -> AsyncIterator[FrontEnd]:
    """A session that is half-closed at the end."""
    client = FrontEnd(fixture, has_handles)
    try:
        yield client
        await client.call.done_writing()
        await client.ended
    finally:
        client.call.cancel()
        await asyncio.gather(client.ended, return_exceptions=True)
