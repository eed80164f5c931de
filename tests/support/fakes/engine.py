"""An EngineService that replays token ids, in this process or (run as a script) in another."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from folovllm.errors import FolovError
from folovllm.logprobs import PositionLogprobs
from folovllm.outputs import (
    CompletionOutput,
    FinishReason,
    RequestInfo,
    RequestMetrics,
    Usage,
)
from folovllm.sampling_params import SamplingParams
from folovllm.score import ContinuationScore, ScoreOutput
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2
from support.fakes.session import FakeSession


@dataclass
class Script:
    """What the engine sends for each index: pieces of token ids, then how the index ends.

    finish None leaves the index running until it is aborted or cancelled.
    """

    pieces: list[list[int]]
    finish: FinishReason | None = FinishReason.LENGTH
    stop_reason: int | str | None = None


@dataclass
class Call:
    """What one request saw; time_remaining is None in a session."""

    request: types_pb2.Request
    time_remaining: float | None
    aborted: set[int] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    completed: bool = False


class FakeEngine(engine_service_pb2_grpc.EngineServiceServicer):
    """Answers every request by the same scripts, one for each index.

    What is continued gets what follows in them.
    """

    def __init__(
        self,
        scripts: Sequence[Script] = (),
        fingerprint: str = "",
        max_model_len: int = 1024,
        vocab_size: int = 300,
        block_size: int = 16,
        chat_template_fingerprint: str = "",
    ) -> None:
        self.scripts = list(scripts)
        self.info = types_pb2.ModelInfo(
            model_id="fake",
            tokenizer_fingerprint=fingerprint,
            chat_template_fingerprint=chat_template_fingerprint,
            block_size=block_size,
            max_model_len=max_model_len,
            vocab_size=vocab_size,
        )
        self.calls: list[Call] = []
        self.moves: list[engine_service_pb2.Moved] = []
        """What sessions were told of requests that came before, elsewhere."""
        self.forks: list[types_pb2.ForkRequest] = []
        self.fork_outputs: list[CompletionOutput] = []
        self.scores: list[types_pb2.ScoreRequest] = []
        self.refuse_with: FolovError | None = None
        self.silent_ids = ""
        """Requests whose id begins with this get nothing until they are cancelled."""
        self.answers_heartbeats = False
        """Whether new sessions do, unlike those of engines that know of none."""
        self.sends_columns = True
        """Whether sessions have them, unlike those of engines that know of none."""
        self.speaks = asyncio.Event()
        """While it is clear, no session sends anything."""
        self.speaks.set()
        self.sessions: list[FakeSession] = []
        """Those that are open."""
        self.load = engine_service_pb2.GetLoadResponse(num_admissible=100)
        self.prompt_logprobs: tuple[PositionLogprobs, ...] = ()

    async def Generate(
        self, request: types_pb2.Request, context: Any
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        call = Call(request, context.time_remaining())
        self.calls.append(call)
        if self.refuse_with is not None:
            raise self.refuse_with
        try:
            if self.silent_ids and request.request_id.startswith(self.silent_ids):
                await asyncio.Event().wait()
            longest = max((len(script.pieces) for script in self.scripts), default=0)
            known = {each.index: len(each.token_ids) for each in request.continued.outputs}
            for step in range(longest):
                for index, script in enumerate(self.scripts):
                    if known and index not in known:
                        continue
                    if step < len(script.pieces):
                        piece = self._piece(call, index, step)
                        num_known = min(known.get(index, 0), len(piece.token_ids))
                        if num_known:
                            known[index] -= num_known
                            piece.token_ids = piece.token_ids[num_known:]
                        if piece.token_ids or piece.finish_reason:
                            yield piece.to_proto()
            async for output in self._ends(call):
                yield output.to_proto()
            call.completed = True
        finally:
            call.ended.set()

    def _piece(self, call: Call, index: int, step: int) -> CompletionOutput:
        script = self.scripts[index]
        output = CompletionOutput(call.request.request_id, index, token_ids=script.pieces[step])
        if step == 0 and index == 0:
            params = SamplingParams.from_proto(call.request.sampling_params)
            output.info = RequestInfo(
                params.clone(seed=7 if params.seed is None else params.seed),
                tokenizer_fingerprint=self.info.tokenizer_fingerprint,
                prompt_tokens=len(call.request.prompt_token_ids),
                prompt_logprobs=self.prompt_logprobs,
            )
        if script.finish is not None and step == len(script.pieces) - 1:
            self._finish(output, call, script.finish, script.stop_reason)
        return output

    async def _ends(self, call: Call) -> AsyncIterator[CompletionOutput]:
        """The final messages of the indexes that only an abort ends."""
        running = {i for i, script in enumerate(self.scripts) if script.finish is None}
        if call.request.HasField("continued"):
            running &= {each.index for each in call.request.continued.outputs}
        while running:
            for index in sorted(running & call.aborted):
                output = CompletionOutput(call.request.request_id, index)
                self._finish(output, call, FinishReason.ABORT, None)
                yield output
            running -= call.aborted
            if running:
                await call.changed.wait()
                call.changed.clear()

    def _finish(
        self, output: CompletionOutput, call: Call, finish: FinishReason, stop: int | str | None
    ) -> None:
        output.finish_reason, output.stop_reason = finish, stop
        output.usage = Usage(
            prompt_tokens=len(call.request.prompt_token_ids),
            completion_tokens=sum(map(len, self.scripts[output.index].pieces)),
        )
        output.metrics = RequestMetrics(queue=0.25)

    async def Fork(
        self, request: types_pb2.ForkRequest, context: Any
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        """Sends fork_outputs, whatever is asked."""
        self.forks.append(request)
        for output in self.fork_outputs:
            yield replace(output, request_id=request.fork_id).to_proto()

    async def Score(self, request: types_pb2.ScoreRequest, context: Any) -> types_pb2.ScoreResponse:
        """The log-probability of a token is minus its index, and its rank the index plus one."""
        self.scores.append(request)
        await self.speaks.wait()
        if self.refuse_with is not None:
            raise self.refuse_with
        scores = []
        for continuation in request.continuations:
            ids = tuple(continuation.token_ids.ids)
            indexes = range(len(ids))
            scores.append(
                ContinuationScore(
                    ids, tuple(-float(i) for i in indexes), tuple(i + 1 for i in indexes)
                )
            )
        return ScoreOutput(request.request_id, tuple(scores)).to_proto()

    async def Abort(
        self, request: engine_service_pb2.AbortRequest, context: Any
    ) -> engine_service_pb2.AbortResponse:
        found = False
        for call in self.calls:
            if call.request.request_id == request.request_id:
                found = True
                call.aborted.update(request.indexes)
                call.changed.set()
        return engine_service_pb2.AbortResponse(found=found)

    async def Session(
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[engine_service_pb2.SessionEvents]:
        """Runs Generate and Fork for each command, and sends their outputs."""
        session = FakeSession(self, request_iterator, self.load)
        self.sessions.append(session)
        try:
            async for events in session.events():
                yield events
        finally:
            self.sessions.remove(session)
            session.close()

    def set_load(self, load: engine_service_pb2.GetLoadResponse) -> None:
        """Reports a load in every session."""
        self.load = load
        for session in self.sessions:
            session.put(engine_service_pb2.SessionEvents(load=load))

    def end_sessions(self, error: FolovError | None = None) -> None:
        """Ends every session, with an error or as an engine that has drained."""
        for session in self.sessions:
            session.end(error)

    def fail_requests(self, error: FolovError) -> None:
        """Ends every request of every session with an error."""
        for session in self.sessions:
            session.fail_requests(error)

    async def GetModelInfo(
        self, request: types_pb2.GetModelInfoRequest, context: Any
    ) -> types_pb2.ModelInfo:
        return self.info

    async def GetLoad(
        self, request: engine_service_pb2.GetLoadRequest, context: Any
    ) -> engine_service_pb2.GetLoadResponse:
        return self.load


@dataclass
class RunningEngine:
    """A fake engine on a port."""

    server: GrpcServer
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def running(engine: FakeEngine, port: int = 0) -> AsyncIterator[RunningEngine]:
    """Serves the engine, healthy, until the block ends."""
    server = GrpcServer(ServerConfig(port=port), ENGINE_SERVICE)
    engine_service_pb2_grpc.add_EngineServiceServicer_to_server(engine, server.grpc)
    taken = server.bind()
    await server.start()
    await server.set_serving(True)
    try:
        yield RunningEngine(server, taken)
    finally:
        await server.grpc.stop(None)


@asynccontextmanager
async def engine_process(
    fingerprint: str, port: int = 0
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A fake engine in a process of its own, which may be killed; yields it and its port."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, str(port), fingerprint),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _main(port: int, fingerprint: str) -> None:
    """Sends the ids of "hello", but nothing for ids with "silent", and ends when it is killed."""
    engine = FakeEngine([Script([[*b"hello"]], finish=None)], fingerprint)
    engine.silent_ids = "silent"
    async with running(engine, port) as served:
        print(served.port, flush=True)
        await served.server.wait_for_stop()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2]))
