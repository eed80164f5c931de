"""EnginePool: the engines that requests may go to, and what chooses among them.

A request that has produced no output when its engine fails, drains or has no room may be tried
again at another engine, as `attempts` says.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Container, Sequence

from folovllm.errors import (
    FolovError,
    ModelMismatchError,
    NotFoundError,
    QueueFullError,
    UnavailableError,
)
from folovllm.liveness import DEFAULT_LIVENESS, LivenessConfig
from folovllm.serving.background_tasks import start_background
from folovllm.v1 import engine_service_pb2, types_pb2
from tokenizer_service.engines.attempts import Attempts
from tokenizer_service.engines.client import EngineClient
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.refused_names import RefusedNames
from tokenizer_service.engines.replicas import Replicas
from tokenizer_service.engines.router import Router
from tokenizer_service.engines.stream import EngineStream

Command = engine_service_pb2.SessionCommand


class EnginePool:
    """Several engines of one model. Belongs to the event loop that it is made in."""

    def __init__(
        self,
        addresses: Sequence[str],
        expected: Fingerprints,
        replicas: Replicas | None = None,
        liveness: LivenessConfig = DEFAULT_LIVENESS,
    ) -> None:
        """`replicas` may be shared with other processes; without them the first engine decides."""
        self._replicas = replicas or Replicas()
        self._engines = [
            EngineClient(address, expected, self._replicas, liveness) for address in addresses
        ]
        self._known_replica = self._replicas.fingerprint
        self._router = Router()
        self._refused = RefusedNames()
        self._was_ready: set[str] = set()
        self._followers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether any engine accepts requests."""
        return any(engine.ready for engine in self._engines)

    def start(self) -> None:
        """Begins to connect, and follows the engines until close."""
        self._followers = [
            start_background(engine.follow(self._notify), f"follow {engine.address}")
            for engine in self._engines
        ]

    async def close(self) -> None:
        """Stops following and closes every channel; streams that still run fail."""
        for follower in self._followers:
            follower.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)
        for engine in self._engines:
            await engine.close()

    def find(self, name: str) -> EngineStream | None:
        """The stream of a request or fork that runs here."""
        for engine in self._engines:
            if engine.runs(name):
                return engine.session.stream_of(name)
        return None

    def generate(self, command: Command, numerics_fingerprint: str | None = None) -> EngineStream:
        """Begins the request of a command, whose id must be set, at the engine that suits it best.

        A request that goes on from output runs only where numerics are the ones given.

        Raises as `model_info` does, and InvalidRequestError if the id is in use there.
        """
        request = command.generate
        name, prompt, salt = request.request_id, request.prompt_token_ids, request.cache_salt
        engine = self._first(name, prompt, salt)

        def begin_elsewhere(tried: Container[str], needs_room: bool) -> str | None:
            other = self._other(tried, prompt, salt, needs_room)
            if other is None:
                return None
            other.session.generate(stream, command)
            return other.address

        def retry(error: FolovError, scheduled: bool) -> FolovError | None:
            final = attempts.try_again(error, scheduled)
            if isinstance(final, QueueFullError):
                self._refused.remember(name, attempts.refused_by)
            return final

        params = request.sampling_params
        n = params.n if params.HasField("n") else 1
        n = len(request.continued.outputs) or n
        attempts = Attempts(engine.address, begin_elsewhere)
        stream = EngineStream(name, len(prompt), n, retry)
        engine.session.generate(stream, command)
        return stream

    def fork(self, command: Command) -> EngineStream:
        """Begins the branches of a request that came through here, where that runs.

        Raises NotFoundError if it runs nowhere, and as `generate` for the fork_id.
        """
        fork = command.fork
        for engine in self._engines:
            if engine.runs(fork.request_id):
                stream = EngineStream(fork.fork_id, 0, len(fork.branches))
                engine.session.fork(stream, command)
                return stream
        raise NotFoundError(f"no request {fork.request_id} runs here")

    async def score(
        self,
        request: types_pb2.ScoreRequest,
        timeout: float | None,  # noqa: ASYNC109 - sent to the engine with the call
    ) -> types_pb2.ScoreResponse:
        """Log-probabilities of continuations. Raises FolovError; cancelling it cancels the call.

        `timeout` is what is left of the caller's deadline, in seconds.
        """
        name, prompt, salt = request.request_id, request.token_ids.ids, request.cache_salt
        engine = self._first(name, prompt, salt)
        started = time.monotonic()
        failure: UnavailableError | QueueFullError
        try:
            return await engine.score(request, timeout)
        except (UnavailableError, QueueFullError) as error:
            failure = error
        other = self._other({engine.address}, prompt, salt, isinstance(failure, QueueFullError))
        if other is not None:
            if timeout is not None:
                timeout -= time.monotonic() - started
            try:
                return await other.score(request, timeout)
            except QueueFullError as error:
                if not (
                    isinstance(failure, QueueFullError) and failure.retry_after < error.retry_after
                ):
                    engine, failure = other, error
        if isinstance(failure, QueueFullError):
            self._refused.remember(name, engine.address)
        raise failure

    def model_info(self) -> types_pb2.ModelInfo:
        """What the engines serve, by the first that is ready.

        If none is ready, raises ModelMismatchError if the engines that are connected serve another
        model, else UnavailableError.
        """
        return self._ready_engines()[0].model_info

    def descriptions(self) -> list[types_pb2.EngineState]:
        """What is known of each engine."""
        return [engine.description for engine in self._engines]

    async def readiness(self) -> AsyncGenerator[bool, None]:
        """Whether any engine is ready: first the present value, then every change."""
        known: bool | None = None
        while True:
            changed = self._changed
            if self.ready != known:
                known = self.ready
                yield known
            else:
                await changed.wait()

    def _ready_engines(self) -> list[EngineClient]:
        """Those that accept requests, at least one. Raises as model_info does."""
        ready = [engine for engine in self._engines if engine.ready]
        if ready:
            return ready
        states = "; ".join(f"{engine.address}: {engine.state}" for engine in self._engines)
        if not self._replicas.has_keepers and any(engine.refused for engine in self._engines):
            raise ModelMismatchError(f"no engine serves this service's model: {states}")
        raise UnavailableError(f"no engine is ready: {states}")

    def _first(self, name: str, prompt: Sequence[int], cache_salt: str) -> EngineClient:
        """The engine that a request is sent to first: where it has a turn, if it was refused."""
        engines = self._ready_engines()
        if (address := self._refused.take(name)) is not None:
            engines = [engine for engine in engines if engine.address == address] or engines
        return self._route(engines, prompt, cache_salt)

    def _other(
        self, tried: Container[str], prompt: Sequence[int], cache_salt: str, needs_room: bool
    ) -> EngineClient | None:
        """The ready engine for a prompt, of those not tried; None if there is none.

        With `needs_room`, one that has said that it has none does not count.
        """
        others = [each for each in self._engines if each.ready and each.address not in tried]
        if needs_room:
            others = [each for each in others if each.session.has_room]
        return self._route(others, prompt, cache_salt) if others else None

    def _route(
        self, engines: Sequence[EngineClient], prompt: Sequence[int], cache_salt: str
    ) -> EngineClient:
        """The engine for a prompt, one with room if there is any."""
        if len(self._engines) == 1:
            return engines[0]
        engines = [engine for engine in engines if engine.session.has_room] or engines
        by_address = {engine.address: engine for engine in engines}
        loads = {engine.address: engine.session.outstanding_tokens for engine in engines}
        block_size = engines[0].model_info.block_size
        return by_address[self._router.choose(prompt, cache_salt, block_size, loads)]

    def _notify(self) -> None:
        ready = {engine.address for engine in self._engines if engine.ready}
        for lost in self._was_ready - ready:
            self._router.forget(lost)
        self._was_ready = ready
        if self._replicas.fingerprint != self._known_replica:
            self._known_replica = self._replicas.fingerprint
            for engine in self._engines:
                engine.reconsider()
        # An event for each change: whoever waits sees this one, whoever comes later the next.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
