"""EngineClient: one engine service, followed from connecting to loss and back.

The engine is ready while its health is SERVING, its model is the expected one and a session with it
is open. Health is streamed, so nothing polls, and a lost connection shows at once. A draining
engine gets no new requests, while those that run in the session finish.
"""

import asyncio
from collections.abc import Callable

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from folovllm.errors import FolovError, UnavailableError, from_rpc_error
from folovllm.serving.channel import ENGINE_CLIENT_OPTIONS, open_channel
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm.v1 import engine_service_pb2_grpc, types_pb2
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.session import EngineSession
from tokenizer_service.engines.stream import TOKENS_PER_CONTINUATION

_SERVING = health_pb2.HealthCheckResponse.SERVING
_STATUS_NAME = health_pb2.HealthCheckResponse.ServingStatus.Name
# Seconds before the health stream is opened again; opening then waits for the connection.
_WATCH_BACKOFF = 0.25
_MODEL_INFO_TIMEOUT = 5.0

HealthCall = grpc.aio.UnaryStreamCall[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]

log: structlog.stdlib.BoundLogger = structlog.get_logger("engine")


class EngineClient:
    """One engine at HOST:PORT. Belongs to the event loop that it is made in."""

    def __init__(self, address: str, expected: Fingerprints) -> None:
        self.address = address
        self._state = "not connected"
        self._expected = expected
        self._model_info: types_pb2.ModelInfo | None = None
        self._agrees = False
        self._session: EngineSession | None = None
        self._channel = open_channel(address, options=ENGINE_CLIENT_OPTIONS)
        self._engine: engine_service_pb2_grpc.EngineServiceAsyncStub = (
            engine_service_pb2_grpc.EngineServiceStub(self._channel)
        )
        self._health = health_pb2_grpc.HealthStub(self._channel)

    @property
    def ready(self) -> bool:
        """Whether it accepts requests."""
        return self._agrees and self._session is not None and self._session.is_open

    @property
    def connected(self) -> bool:
        """Whether it could accept requests if it served the expected model; perhaps it does."""
        return self.ready or (self._model_info is not None and not self._agrees)

    @property
    def state(self) -> str:
        """Why it is not ready, in words; "ready" if it is."""
        broken = self._agrees and self._session is not None and not self._session.is_open
        return self._session.end_reason if broken and self._session else self._state

    @property
    def model_info(self) -> types_pb2.ModelInfo:
        """What it serves; only while it is connected."""
        assert self._model_info is not None
        return self._model_info

    @property
    def session(self) -> EngineSession:
        """The latest session with it. Raises UnavailableError if there is none."""
        if self._session is None:
            raise UnavailableError(f"engine {self.address}: {self.state}")
        return self._session

    async def follow(self, on_change: Callable[[], None]) -> None:
        """Keeps the state up to date until cancelled, calling `on_change` after each change."""
        while True:
            try:
                await self._watch(on_change)
            except FolovError as error:
                self._lose(str(error))
            except Exception as error:
                log.error("engine cannot be followed", engine=self.address, exc_info=error)
                self._lose("it cannot be followed; the log says more")
            on_change()
            await asyncio.sleep(_WATCH_BACKOFF)

    def runs(self, name: str) -> bool:
        """Whether a request or fork of that name runs on it."""
        return self._session is not None and self._session.runs(name)

    async def score(
        self,
        request: types_pb2.ScoreRequest,
        timeout: float | None,  # noqa: ASYNC109 - sent to the engine with the call
    ) -> types_pb2.ScoreResponse:
        """Log-probabilities of continuations. Raises FolovError; cancelling it cancels the call."""
        session = self.session
        num_tokens = len(request.token_ids.ids) + sum(
            TOKENS_PER_CONTINUATION + len(each.token_ids.ids) for each in request.continuations
        )
        session.own_tokens += num_tokens
        try:
            return await self._engine.Score(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error)
            if isinstance(failure, UnavailableError):  # which of several
                failure = UnavailableError(f"engine {self.address}: {failure}")
            raise failure from None
        finally:
            session.own_tokens -= num_tokens

    async def close(self) -> None:
        """Closes the channel and with it every stream."""
        if self._session is not None:
            await self._session.close()
        await self._channel.close()

    async def _watch(self, on_change: Callable[[], None]) -> None:
        """Follows health and session until one of them ends. Raises FolovError."""
        request = health_pb2.HealthCheckRequest(service=ENGINE_SERVICE)
        call = self._health.Watch(request, wait_for_ready=True)
        try:
            while True:
                status = await self._next_status(call)
                if status == _SERVING:
                    await self._meet()
                else:
                    self._lose(f"it is {_STATUS_NAME(status)}")
                on_change()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    async def _next_status(self, call: HealthCall) -> int:
        """The next health. Raises UnavailableError if the stream or the session ends first."""
        reading = asyncio.ensure_future(call.read())
        session = self._session
        # One that ends after the engine began to drain is expected.
        watched = session is not None and (session.is_open or self._agrees)
        ended = [session.ended] if session is not None and watched else []
        try:
            await asyncio.wait([reading, *ended], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                assert session is not None
                raise UnavailableError(session.end_reason)
            response = reading.result()
        finally:
            reading.cancel()
        if not isinstance(response, health_pb2.HealthCheckResponse):
            raise UnavailableError("the health stream ended")
        return int(response.status)

    async def _meet(self) -> None:
        """Asks what the engine serves and, if it is the expected model, opens a session."""
        info = await self._engine.GetModelInfo(
            types_pb2.GetModelInfoRequest(), timeout=_MODEL_INFO_TIMEOUT
        )
        mismatch = self._expected.mismatch(info)
        if mismatch:
            self._model_info, self._agrees, self._state = info, False, mismatch
            log.error("engine refused", engine=self.address, reason=mismatch)
            return
        if self._session is None or not self._session.is_open:
            self._session = await EngineSession.open(self._engine, self.address)
        self._model_info, self._agrees, self._state = info, True, "ready"
        log.info("engine ready", engine=self.address, model=info.model_id, device=info.device)

    def _lose(self, state: str) -> None:
        if self._model_info is not None:
            log.warning("engine lost", engine=self.address, reason=state)
        self._model_info, self._agrees, self._state = None, False, state
