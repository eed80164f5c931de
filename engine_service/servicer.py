"""EngineServicer: the contract's EngineService on top of AsyncEngine.

Requests are read and checked here, in the event loop and before any work, and what the engine
brings is written to the wire. However a call ends, its request is released.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import grpc
import structlog

from engine_service.admission import check_request
from engine_service.async_engine import AsyncEngine
from engine_service.core.fork import Fork
from engine_service.core.request import Request
from engine_service.request_reader import read_fork, read_score, refuse_text
from engine_service.seeding import new_seed
from folovllm.errors import CancelledRequestError, InvalidRequestError
from folovllm.outputs import CompletionOutput, FinishReason
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.score import ContinuationScore, ScoreOutput
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2

Context = grpc.aio.ServicerContext[Any, Any]

# Positions with log-probabilities in one message: 330 KiB at most, beside those of a prompt.
_MOST_POSITIONS = 1024


class EngineServicer(engine_service_pb2_grpc.EngineServiceServicer):
    """Answers gRPC calls with one engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def Generate(
        self, request: types_pb2.Request, context: Context
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        """Streams the n continuations of a prompt."""
        admitted = await self._read(request)
        structlog.contextvars.bind_contextvars(request_id=admitted.request_id)
        stream = self._engine.generate(admitted)
        try:
            async for output in stream:
                for piece in _pieces(output):
                    yield piece.to_proto()
        finally:
            self._engine.release(admitted.request_id)

    async def Fork(
        self, request: types_pb2.ForkRequest, context: Context
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        """Streams the branches of a running request."""
        fork = read_fork(request, self._engine.info, self._engine.default_sampling_params)
        structlog.contextvars.bind_contextvars(request_id=fork.fork_id, parent=fork.request_id)
        stream = self._engine.fork(await _with_grammars(self._engine, fork))
        try:
            async for output in stream:
                for piece in _pieces(output):
                    yield piece.to_proto()
        finally:
            self._engine.release(fork.fork_id)

    async def Score(
        self, request: types_pb2.ScoreRequest, context: Context
    ) -> types_pb2.ScoreResponse:
        """Says how probable given continuations are. Raises CancelledRequestError on an Abort."""
        name, requests = read_score(request, self._engine.info)
        structlog.contextvars.bind_contextvars(request_id=name)
        scores: dict[int, ContinuationScore] = {}
        stream = self._engine.score(name, requests)
        try:
            async for output in stream:
                if output.finish_reason is FinishReason.ABORT:
                    raise CancelledRequestError(f"{name} was aborted")
                scores[output.index] = ContinuationScore.from_logprobs(output.logprobs)
        finally:
            self._engine.release(name)
        return ScoreOutput(name, tuple(scores[i] for i in range(len(requests)))).to_proto()

    async def Abort(
        self, request: engine_service_pb2.AbortRequest, context: Context
    ) -> engine_service_pb2.AbortResponse:
        """Ends a running request, or some of its continuations."""
        found = self._engine.abort(request.request_id, request.indexes)
        return engine_service_pb2.AbortResponse(found=found)

    async def GetModelInfo(
        self, request: types_pb2.GetModelInfoRequest, context: Context
    ) -> types_pb2.ModelInfo:
        """Says what is served."""
        return self._engine.info.to_proto()

    async def GetLoad(
        self, request: engine_service_pb2.GetLoadRequest, context: Context
    ) -> engine_service_pb2.GetLoadResponse:
        """Says how busy the engine is."""
        load = self._engine.load
        return engine_service_pb2.GetLoadResponse(
            num_running=load.num_running,
            num_waiting=load.num_waiting,
            num_queued_tokens=load.num_queued_tokens,
            kv_cache_usage=load.kv_cache_usage,
            num_free_kv_blocks=load.num_free_kv_blocks,
            num_requests=self._engine.num_requests,
            num_admissible=self._engine.num_admissible,
        )

    async def _read(self, message: types_pb2.Request) -> Request:
        """The request behind a message. Raises InvalidRequestError that names the field."""
        info = self._engine.info
        refuse_text(message.sampling_params)
        params = SamplingParams.from_proto(
            message.sampling_params, self._engine.default_sampling_params
        )
        prompt_token_ids = list(message.prompt_token_ids)
        check_request(prompt_token_ids, params, info)
        return Request(
            message.request_id or new_request_id(),
            prompt_token_ids,
            params,
            seed=new_seed(),
            priority=message.priority,
            cache_salt=message.cache_salt,
            matcher=await self._engine.make_matcher(params),
        )


async def _with_grammars(engine: AsyncEngine, fork: Fork) -> Fork:
    """The fork with a matcher for each branch that asks for a structured output."""
    branches = []
    for place, branch in enumerate(fork.branches):
        try:
            matcher = await engine.make_matcher(branch.sampling_params)
        except InvalidRequestError as error:
            raise error.within(f"branches[{place}]") from None
        branches.append(replace(branch, matcher=matcher))
    return replace(fork, branches=branches)


def _pieces(output: CompletionOutput) -> Iterator[CompletionOutput]:
    """An output as messages of bounded size; a slow reader's may have grown by merging."""
    while len(output.logprobs) > _MOST_POSITIONS:
        later = output.logprobs[_MOST_POSITIONS:]
        assert output.cumulative_logprob is not None
        yield CompletionOutput(
            output.request_id,
            output.index,
            token_ids=output.token_ids[:_MOST_POSITIONS],
            logprobs=output.logprobs[:_MOST_POSITIONS],
            cumulative_logprob=output.cumulative_logprob
            - sum(position.token.logprob or 0.0 for position in later),
            info=output.info,
        )
        output = replace(
            output, token_ids=output.token_ids[_MOST_POSITIONS:], logprobs=later, info=None
        )
    yield output
