"""EngineClient: one engine service, followed from connecting to loss and back.

The engine is ready while its health says SERVING and its tokenizer is the expected one. Both are
learned from its health stream, so nothing polls, and a lost connection shows at once.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from folovllm.errors import FolovError, UnavailableError, from_rpc_error
from folovllm.serving.channel import CLIENT_OPTIONS
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_STATUS_NAME = health_pb2.HealthCheckResponse.ServingStatus.Name
# Seconds before the health stream is opened again; opening then waits for the connection.
_WATCH_BACKOFF = 0.25
_MODEL_INFO_TIMEOUT = 5.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("engine")


class EngineClient:
    """One engine at HOST:PORT. Belongs to the event loop that it is made in."""

    def __init__(self, address: str, tokenizer_fingerprint: str) -> None:
        self.address = address
        self.num_outstanding = 0
        """Calls that run on it."""
        self._request_ids: list[str] = []
        self.state = "not connected"
        """Why it is not ready, in words; "ready" where it is."""
        self._tokenizer_fingerprint = tokenizer_fingerprint
        self._model_info: types_pb2.ModelInfo | None = None
        self._channel = grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS)
        self._engine = engine_service_pb2_grpc.EngineServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    @property
    def connected(self) -> bool:
        """Whether it is SERVING, be it the expected model or not."""
        return self._model_info is not None

    @property
    def ready(self) -> bool:
        """Whether it takes requests: SERVING, with the expected tokenizer."""
        info = self._model_info
        return info is not None and self._agrees(info)

    @property
    def model_info(self) -> types_pb2.ModelInfo:
        """What it serves; only while it is connected."""
        assert self._model_info is not None
        return self._model_info

    async def follow(self, on_change: Callable[[], None]) -> None:
        """Keeps the state true until cancelled, calling `on_change` after each change."""
        while True:
            try:
                await self._watch(on_change)
                self._lose("the health stream ended")
            except FolovError as error:
                self._lose(str(error))
            on_change()
            await asyncio.sleep(_WATCH_BACKOFF)

    def runs(self, request_id: str) -> bool:
        """Whether a stream of that name runs on it."""
        return request_id in self._request_ids

    def generate(
        self, request: types_pb2.Request, timeout: float | None
    ) -> AsyncGenerator[types_pb2.CompletionOutput, None]:
        """The engine's stream for a request. Raises FolovError; closing it cancels the call.

        `timeout` is what is left of the caller's deadline, in seconds.
        """
        return self._stream(self._engine.Generate, request, request.request_id, timeout)

    def fork(
        self, request: types_pb2.ForkRequest, timeout: float | None
    ) -> AsyncGenerator[types_pb2.CompletionOutput, None]:
        """The engine's stream for the branches of a request that it runs; else as `generate`."""
        return self._stream(self._engine.Fork, request, request.fork_id, timeout)

    async def score(
        self, request: types_pb2.ScoreRequest, timeout: float | None
    ) -> types_pb2.ScoreResponse:
        """How probable continuations are. Raises FolovError; cancelling it cancels the call."""
        self.num_outstanding += 1
        try:
            return await self._engine.Score(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None
        finally:
            self.num_outstanding -= 1

    async def abort(
        self, request_id: str, indexes: Sequence[int], timeout: float | None = None
    ) -> bool:
        """Ends continuations of a request; False where it does not run. Raises FolovError."""
        message = engine_service_pb2.AbortRequest(request_id=request_id, indexes=indexes)
        try:
            response = await self._engine.Abort(message, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return response.found

    async def close(self) -> None:
        """Closes the channel and with it every stream."""
        await self._channel.close()

    async def _stream(
        self,
        method: Callable[..., grpc.aio.UnaryStreamCall[Any, types_pb2.CompletionOutput]],
        request: types_pb2.Request | types_pb2.ForkRequest,
        name: str,
        timeout: float | None,
    ) -> AsyncGenerator[types_pb2.CompletionOutput, None]:
        call = method(request, timeout=timeout)
        self.num_outstanding += 1
        self._request_ids.append(name)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None
        finally:
            self.num_outstanding -= 1
            self._request_ids.remove(name)
            call.cancel()

    def _failure(self, error: grpc.aio.AioRpcError) -> FolovError:
        failure = from_rpc_error(error)
        if isinstance(failure, UnavailableError):  # of several engines, say which
            return UnavailableError(f"engine {self.address}: {failure}")
        return failure

    async def _watch(self, on_change: Callable[[], None]) -> None:
        """Follows the health until its stream ends. Raises FolovError."""
        request = health_pb2.HealthCheckRequest(service=ENGINE_SERVICE)
        call = self._health.Watch(request, wait_for_ready=True)
        try:
            async for response in call:
                if response.status == _SERVING:
                    await self._meet()
                else:
                    self._lose(f"it is {_STATUS_NAME(response.status)}")
                on_change()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    async def _meet(self) -> None:
        """Learns what the engine serves, and whether that fits."""
        info = await self._engine.GetModelInfo(
            types_pb2.GetModelInfoRequest(), timeout=_MODEL_INFO_TIMEOUT
        )
        self._model_info = info
        if self._agrees(info):
            self.state = "ready"
            log.info("engine ready", engine=self.address, model=info.model_id, device=info.device)
            return
        self.state = (
            f"its tokenizer's fingerprint is {info.tokenizer_fingerprint or 'missing'}, "
            f"this service's is {self._tokenizer_fingerprint or 'missing'}"
        )
        log.error("engine refused", engine=self.address, reason=self.state)

    def _agrees(self, info: types_pb2.ModelInfo) -> bool:
        expected = self._tokenizer_fingerprint
        return bool(expected) and info.tokenizer_fingerprint == expected

    def _lose(self, state: str) -> None:
        if self._model_info is not None:
            log.warning("engine lost", engine=self.address, reason=state)
        self._model_info = None
        self.state = state
