"""EnginePool: the engines that requests may go to, and what chooses among them.

A request that has produced no output when its engine fails, drains or has no room is retried once,
at another engine.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

from folovllm.errors import ModelMismatchError, NotFoundError, QueueFullError, UnavailableError
from folovllm.serving.background_tasks import start_background
from folovllm.v1 import engine_service_pb2, types_pb2
from tokenizer_service.engines.client import EngineClient
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.router import Router
from tokenizer_service.engines.stream import EngineStream

Command = engine_service_pb2.SessionCommand


class EnginePool:
    """Several engines of one model. Belongs to the event loop that it is made in."""

    def __init__(self, addresses: Sequence[str], expected: Fingerprints) -> None:
        self._engines = [EngineClient(address, expected) for address in addresses]
        self._router = Router()
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

    def generate(self, command: Command) -> EngineStream:
        """Begins the request of a command, whose id must be set, at the engine that suits it best.

        Raises as `model_info` does, and InvalidRequestError if the id is in use there.
        """
        request = command.generate
        prompt, salt = request.prompt_token_ids, request.cache_salt
        engine = self._route(self._ready_engines(), prompt, salt)

        def retry() -> bool:
            other = self._other(engine, prompt, salt)
            if other is not None:
                other.session.generate(stream, command)
            return other is not None

        params = request.sampling_params
        n = params.n if params.HasField("n") else 1
        stream = EngineStream(request.request_id, len(prompt), n, retry)
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
        prompt, salt = request.token_ids.ids, request.cache_salt
        engine = self._route(self._ready_engines(), prompt, salt)
        started = time.monotonic()
        try:
            return await engine.score(request, timeout)
        except (UnavailableError, QueueFullError):
            other = self._other(engine, prompt, salt)
            if other is None:
                raise
            if timeout is not None:
                timeout -= time.monotonic() - started
            return await other.score(request, timeout)

    def model_info(self) -> types_pb2.ModelInfo:
        """What the engines serve, by the first that is ready.

        If none is ready, raises ModelMismatchError if the engines that are connected serve another
        model, else UnavailableError.
        """
        return self._ready_engines()[0].model_info

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
        if any(engine.connected for engine in self._engines):
            raise ModelMismatchError(f"no engine serves this service's model: {states}")
        raise UnavailableError(f"no engine is ready: {states}")

    def _other(
        self, failed: EngineClient, prompt: Sequence[int], cache_salt: str
    ) -> EngineClient | None:
        """The ready engine for a prompt after another one has failed; None if there is none."""
        others = [engine for engine in self._engines if engine.ready and engine is not failed]
        return self._route(others, prompt, cache_salt) if others else None

    def _route(
        self, engines: Sequence[EngineClient], prompt: Sequence[int], cache_salt: str
    ) -> EngineClient:
        """The engine for a prompt."""
        if len(self._engines) == 1:
            return engines[0]
        by_address = {engine.address: engine for engine in engines}
        loads = {engine.address: engine.session.outstanding_tokens for engine in engines}
        block_size = engines[0].model_info.block_size
        return by_address[self._router.choose(prompt, cache_salt, block_size, loads)]

    def _notify(self) -> None:
        ready = {engine.address for engine in self._engines if engine.ready}
        for lost in self._was_ready - ready:
            self._router.forget(lost)
        self._was_ready = ready
        # An event for each change: whoever waits sees this one, whoever comes later the next.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
