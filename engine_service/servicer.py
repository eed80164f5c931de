"""EngineServicer: the contract's EngineService on top of AsyncEngine.

Requests are read and checked here, in the event loop and before any work, and outputs are written
to the wire. However a call ends, its request is released.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import structlog

from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.commands import StreamCommand
from engine_service.rpc.load_reports import load_message
from engine_service.rpc.open_sessions import OpenSessions
from engine_service.rpc.output_messages import output_messages
from engine_service.rpc.request_reader import fork_steps, read_generate, read_score
from engine_service.rpc.session import Session
from folovllm.errors import CancelledRequestError
from folovllm.liveness import DEFAULT_LIVENESS, LivenessConfig
from folovllm.outputs import FinishReason
from folovllm.score import ContinuationScore, ScoreOutput
from folovllm.serving.active_calls import ActiveCalls, counts_its_requests
from folovllm.serving.turns import LONG_BYTES, MAX_ENTRIES
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2

Context = grpc.aio.ServicerContext[Any, Any]


class EngineServicer(engine_service_pb2_grpc.EngineServiceServicer):
    """Answers gRPC calls with one engine."""

    def __init__(
        self,
        engine: AsyncEngine,
        active_calls: ActiveCalls,
        liveness: LivenessConfig = DEFAULT_LIVENESS,
    ) -> None:
        """`active_calls` is that of the server; `liveness` of front ends with sessions."""
        self._engine = engine
        self._active_calls = active_calls
        self._liveness = liveness
        self._sessions = OpenSessions(engine)
        self._turns = self._sessions.turns

    async def Generate(
        self, request: types_pb2.Request, context: Context
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        """Streams the n continuations of a prompt."""
        if request.ByteSize() > LONG_BYTES:
            await self._turns.take()
        command = read_generate(request, self._engine)
        structlog.contextvars.bind_contextvars(request_id=command.name)
        async with aclosing(self._outputs(command)) as messages:
            async for message in messages:
                yield message

    async def Fork(
        self, request: types_pb2.ForkRequest, context: Context
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        """Streams the branches of a running request."""
        command = await self._turns.run(fork_steps(request, self._engine))
        structlog.contextvars.bind_contextvars(request_id=command.name, parent=command.parent)
        async with aclosing(self._outputs(command)) as messages:
            async for message in messages:
                yield message

    async def _outputs(
        self, command: StreamCommand
    ) -> AsyncGenerator[types_pb2.CompletionOutput, None]:
        async with self._engine.running(command) as stream:
            async for output in stream:
                for message in output_messages(output):
                    yield message
                    if message.ByteSize() > LONG_BYTES:
                        await self._turns.take()

    @counts_its_requests
    async def Session(
        self, request_iterator: AsyncIterator[engine_service_pb2.SessionCommand], context: Context
    ) -> AsyncIterator[engine_service_pb2.SessionEvents]:
        """Serves many requests of one front end until it leaves or the server has drained."""
        self._active_calls.refuse_while_draining()
        _ = self._engine.info  # raises if there is no engine to talk to
        session = Session(
            self._engine, self._active_calls, context.peer(), self._liveness, self._sessions
        )
        async with aclosing(session.serve(request_iterator)) as messages:
            async for message in messages:
                yield message

    async def Score(
        self, request: types_pb2.ScoreRequest, context: Context
    ) -> types_pb2.ScoreResponse:
        """Scores given continuations of a prompt. Raises CancelledRequestError on an Abort."""
        if request.ByteSize() > LONG_BYTES:
            await self._turns.take()
        command = read_score(request, self._engine)
        structlog.contextvars.bind_contextvars(request_id=command.name)
        scores: dict[int, ContinuationScore] = {}
        async with self._engine.running(command) as stream:
            async for output in stream:
                if output.finish_reason is FinishReason.ABORT:
                    raise CancelledRequestError(f"{command.name} was aborted")
                if len(output.logprobs) > MAX_ENTRIES:
                    await self._turns.take()
                scores[output.index] = ContinuationScore.from_logprobs(output.logprobs)
        ordered = tuple(scores[index] for index in range(command.num_outputs))
        return ScoreOutput(command.name, ordered).to_proto()

    async def Abort(
        self, request: engine_service_pb2.AbortRequest, context: Context
    ) -> engine_service_pb2.AbortResponse:
        """Ends a running request, or some of its continuations."""
        found = self._engine.abort(request.request_id, request.indexes)
        return engine_service_pb2.AbortResponse(found=found)

    async def GetModelInfo(
        self, request: types_pb2.GetModelInfoRequest, context: Context
    ) -> types_pb2.ModelInfo:
        """Returns what is served."""
        return self._engine.info.to_proto()

    async def GetLoad(
        self, request: engine_service_pb2.GetLoadRequest, context: Context
    ) -> engine_service_pb2.GetLoadResponse:
        """Returns how busy the engine is, and what it has generated."""
        load = load_message(self._engine)
        load.num_generated_tokens = self._engine.num_generated_tokens
        return load
