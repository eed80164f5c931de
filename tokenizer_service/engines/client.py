"""EngineClient: one engine service, followed from connecting to loss and back.

The engine is ready while its health is SERVING, its model is the expected one, and a session with
it is open in which it is not silent. Health is streamed, so a lost connection shows at once; that
an engine is silent shows by heartbeats. A draining engine gets no new requests, while those that
run in the session finish.
"""

import asyncio
import functools
from collections.abc import Callable

import grpc
import structlog
from grpc_health.v1 import health_pb2

from folovllm.errors import FolovError, UnavailableError, from_rpc_error
from folovllm.liveness import LivenessConfig
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm.v1 import types_pb2
from tokenizer_service.engines.connection import Connection, GrpcConnection
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.migration.numerics import Numerics
from tokenizer_service.engines.part import TOKENS_PER_CONTINUATION
from tokenizer_service.engines.replicas import Replicas
from tokenizer_service.engines.session import EngineSession

_SERVING = health_pb2.HealthCheckResponse.SERVING
_STATUS_NAME = health_pb2.HealthCheckResponse.ServingStatus.Name
# Seconds before the health stream is opened again; opening then waits for the connection.
_WATCH_BACKOFF = 0.25
_MODEL_INFO_TIMEOUT = 5.0

HealthCall = grpc.aio.UnaryStreamCall[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]

ScoreCall = grpc.aio.UnaryUnaryCall[types_pb2.ScoreRequest, types_pb2.ScoreResponse]

log: structlog.stdlib.BoundLogger = structlog.get_logger("engine")


class EngineClient:
    """One engine at HOST:PORT. Belongs to the event loop that it is made in."""

    def __init__(
        self,
        address: str,
        expected: Fingerprints,
        replicas: Replicas,
        liveness: LivenessConfig,
        connect: Callable[[str], Connection] = GrpcConnection,
    ) -> None:
        """`connect` opens a new connection to an address."""
        self.address = address
        self._state = "not connected"
        self._expected = expected
        self._replicas = replicas
        self._liveness = liveness
        self._reconsidered = asyncio.Event()
        self._model_info: types_pb2.ModelInfo | None = None
        self._agrees = False
        self._session: EngineSession | None = None
        self._connect = connect
        self._connection = connect(address)

    @property
    def ready(self) -> bool:
        """Whether it accepts requests."""
        session = self._session
        return self._agrees and session is not None and session.takes_requests

    @property
    def refused(self) -> bool:
        """Whether it is connected and serves another model."""
        return self._model_info is not None and not self._agrees

    @property
    def state(self) -> str:
        """Why it is not ready, in words; "ready" if it is."""
        if not self._agrees or self._session is None:
            return self._state
        return self._session.trouble or self._state

    @property
    def description(self) -> types_pb2.EngineState:
        """What is known of it."""
        return types_pb2.EngineState(
            address=self.address,
            ready=self.ready,
            state=self.state,
            replica_fingerprint=self._model_info.replica_fingerprint if self._model_info else "",
        )

    @property
    def model_info(self) -> types_pb2.ModelInfo:
        """What it serves; only while it is connected."""
        assert self._model_info is not None
        return self._model_info

    @property
    def numerics(self) -> Numerics:
        """What its tokens depend on; only while it is connected."""
        return Numerics.of(self.model_info)

    @property
    def open_session(self) -> EngineSession | None:
        """The session in which requests may run, whether it takes new ones or not."""
        session = self._session
        return session if session is not None and session.is_open else None

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
            if self._session is not None and self._session.was_lost:
                self._session = None
                await self._reconnect()
            await asyncio.sleep(_WATCH_BACKOFF)

    def reconsider(self) -> None:
        """Asks an engine that was refused again what it serves."""
        if self.refused:
            self._reconsidered.set()

    async def score(
        self,
        request: types_pb2.ScoreRequest,
        timeout: float | None,  # noqa: ASYNC109 - sent to the engine with the call
    ) -> types_pb2.ScoreResponse:
        """Log-probabilities of continuations. Raises FolovError; cancelling it cancels the call."""
        session = self.session
        if session.is_silent:
            raise UnavailableError(f"engine {self.address}: {self.state}")
        num_tokens = len(request.token_ids.ids) + sum(
            TOKENS_PER_CONTINUATION + len(each.token_ids.ids) for each in request.continuations
        )
        session.own_tokens += num_tokens
        try:
            return await self._until_lost(
                self._connection.engine.Score(request, timeout=timeout), session
            )
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error)
            if isinstance(failure, UnavailableError):  # which of several
                failure = UnavailableError(f"engine {self.address}: {failure}")
            raise failure from None
        finally:
            session.own_tokens -= num_tokens

    async def close(self) -> None:
        """Closes the connection and with it every stream."""
        if self._session is not None:
            await self._session.close()
        await self._connection.close()

    async def _until_lost(self, call: ScoreCall, session: EngineSession) -> types_pb2.ScoreResponse:
        """What a call returns. Raises UnavailableError if the session with its engine ends first.

        Otherwise it would last as long as the engine is silent.
        """
        answer = asyncio.ensure_future(call)
        try:
            await asyncio.wait([answer, session.ended], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and session.was_lost:
                raise UnavailableError(f"engine {self.address}: {session.end_reason}")
            return await answer
        finally:
            answer.cancel()
            call.cancel()

    async def _reconnect(self) -> None:
        """Opens another connection: one whose packets were lost may take long to notice it."""
        await self._connection.close()
        self._connection = self._connect(self.address)

    async def _watch(self, on_change: Callable[[], None]) -> None:
        """Follows health and session until one of them ends, or it is to be reconsidered.

        Raises FolovError.
        """
        request = health_pb2.HealthCheckRequest(service=ENGINE_SERVICE)
        self._reconsidered.clear()
        call = self._connection.health.Watch(request, wait_for_ready=True)
        try:
            while True:
                status = await self._next_status(call)
                if status is None:
                    return
                if status == _SERVING:
                    await self._meet(on_change)
                else:
                    self._lose(f"it is {_STATUS_NAME(status)}")
                on_change()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    async def _next_status(self, call: HealthCall) -> int | None:
        """The next health; None if it is to be reconsidered, which ends the stream.

        Raises UnavailableError if the stream or the session ends first.
        """
        reading = asyncio.ensure_future(call.read())
        reconsidered = asyncio.ensure_future(self._reconsidered.wait())
        session = self._session
        # One that ends after the engine began to drain is expected.
        watched = session is not None and (session.is_open or self._agrees)
        ended = [session.ended] if session is not None and watched else []
        try:
            first = [reading, reconsidered, *ended]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done() and reconsidered.done():
                return None
            if not reading.done():
                assert session is not None
                raise UnavailableError(session.end_reason)
            response = reading.result()
        finally:
            reading.cancel()
            reconsidered.cancel()
        if not isinstance(response, health_pb2.HealthCheckResponse):
            raise UnavailableError("the health stream ended")
        return int(response.status)

    async def _meet(self, on_change: Callable[[], None]) -> None:
        """Asks what the engine serves and, if it is the expected model, opens a session."""
        info = await self._connection.engine.GetModelInfo(
            types_pb2.GetModelInfoRequest(), timeout=_MODEL_INFO_TIMEOUT
        )
        mismatch = self._expected.mismatch(info)
        if mismatch:
            self._replicas.forget(self.address)
        else:
            mismatch = self._replicas.mismatch(self.address, info.replica_fingerprint)
        if mismatch:
            if mismatch != self._state:
                log.error("engine refused", engine=self.address, reason=mismatch)
            self._model_info, self._agrees, self._state = info, False, mismatch
            return
        if self._session is None or not self._session.is_open:
            tell = functools.partial(self._tell_change, on_change)
            self._session = await EngineSession.open(
                self._connection.engine, self.address, self._liveness, tell
            )
        self._model_info, self._agrees, self._state = info, True, "ready"
        log.info("engine ready", engine=self.address, model=info.model_id, device=info.device)

    def _tell_change(self, on_change: Callable[[], None]) -> None:
        session = self._session
        if session is not None and session.is_silent:
            log.warning("engine silent", engine=self.address)
        elif session is not None and session.drains:
            log.info("engine drains", engine=self.address)
        else:
            log.info("engine speaks again", engine=self.address)
        on_change()

    def _lose(self, state: str) -> None:
        if self._model_info is not None:
            log.warning("engine lost", engine=self.address, reason=state)
        self._model_info, self._agrees, self._state = None, False, state
