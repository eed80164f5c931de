"""EnginePool: the engines that requests may go to, and what chooses among them.

A request that has produced no output when its engine fails, drains or has no room is tried once
more, at another engine.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from folovllm.errors import ModelMismatchError, NotFoundError, QueueFullError, UnavailableError
from folovllm.v1 import types_pb2
from tokenizer_service.engines.client import EngineClient
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.router import Router
from tokenizer_service.engines.run import EngineRun
from tokenizer_service.engines.stream import EngineStream


class EnginePool:
    """Several engines of one model. Belongs to the event loop that it is made in."""

    def __init__(self, addresses: Sequence[str], expected: Fingerprints) -> None:
        self._engines = [EngineClient(address, expected) for address in addresses]
        self._router = Router()
        self._was_ready: set[str] = set()
        self._followers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def ready(self) -> bool:
        """Whether any engine takes requests."""
        return any(engine.ready for engine in self._engines)

    def start(self) -> None:
        """Begins to connect, and goes on following the engines until close."""
        self._followers = [
            asyncio.create_task(engine.follow(self._notify), name=f"follow {engine.address}")
            for engine in self._engines
        ]

    async def close(self) -> None:
        """Stops following and closes every channel; streams that still run end."""
        for follower in self._followers:
            follower.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)
        for engine in self._engines:
            await engine.close()

    def generate(self, request: types_pb2.Request) -> EngineRun:
        """Begins a request, whose request_id must be set, at the engine that suits it best.

        Raises as `model_info` does, and InvalidRequestError where the id is in use there.
        """
        engine = self._pick(request.prompt_token_ids, request.cache_salt)

        def run_elsewhere() -> EngineStream | None:
            other = self._other(engine, request.prompt_token_ids, request.cache_salt)
            return None if other is None else other.generate(request)

        return EngineRun(engine.generate(request), run_elsewhere)

    def fork(self, request: types_pb2.ForkRequest) -> EngineRun:
        """Begins the branches of a request that came through here, where that runs.

        Raises NotFoundError where it runs nowhere, and as `generate` for the fork_id.
        """
        parent = request.request_id
        for engine in self._engines:
            if engine.runs(parent):
                return EngineRun(engine.fork(request), lambda: None)
        raise NotFoundError(f"no request {parent} runs here")

    async def score(
        self,
        request: types_pb2.ScoreRequest,
        timeout: float | None,  # noqa: ASYNC109 - the engine is told it, with the call
    ) -> types_pb2.ScoreResponse:
        """How probable continuations are. Raises FolovError; cancelling it cancels the call.

        `timeout` is what is left of the caller's deadline, in seconds.
        """
        prompt, salt = request.token_ids.ids, request.cache_salt
        engine = self._pick(prompt, salt)
        try:
            return await engine.score(request, timeout)
        except (UnavailableError, QueueFullError):
            other = self._other(engine, prompt, salt)
            if other is None:
                raise
            return await other.score(request, timeout)

    def model_info(self) -> types_pb2.ModelInfo:
        """What the engines serve, by the first that is ready.

        Raises ModelMismatchError where the engines that are connected serve another model, else
        UnavailableError where none is ready.
        """
        return self._ready_engines()[0].model_info

    async def readiness(self) -> AsyncGenerator[bool, None]:
        """Whether any engine is ready: first as it is now, then each time that it changes."""
        known: bool | None = None
        while True:
            changed = self._changed
            if self.ready != known:
                known = self.ready
                yield known
            else:
                await changed.wait()

    async def wait_ready(self) -> None:
        """Returns when an engine is ready.

        Raises ModelMismatchError where waiting cannot help because every engine is connected and
        serves another model.
        """
        while not self.ready:
            if all(engine.connected for engine in self._engines):
                self._ready_engines()
            await self._changed.wait()

    def _ready_engines(self) -> list[EngineClient]:
        """Those that take requests, at least one. Raises as model_info does."""
        ready = [engine for engine in self._engines if engine.ready]
        if ready:
            return ready
        states = "; ".join(f"{engine.address}: {engine.state}" for engine in self._engines)
        if any(engine.connected for engine in self._engines):
            raise ModelMismatchError(f"no engine serves this service's model: {states}")
        raise UnavailableError(f"no engine is ready: {states}")

    def _pick(self, prompt: Sequence[int], cache_salt: str) -> EngineClient:
        """The ready engine for a prompt. Raises as model_info does."""
        return self._route(self._ready_engines(), prompt, cache_salt)

    def _other(
        self, failed: EngineClient, prompt: Sequence[int], cache_salt: str
    ) -> EngineClient | None:
        """The ready engine for a prompt that another one has failed."""
        others = [engine for engine in self._engines if engine.ready and engine is not failed]
        return self._route(others, prompt, cache_salt) if others else None

    def _route(
        self, engines: Sequence[EngineClient], prompt: Sequence[int], cache_salt: str
    ) -> EngineClient:
        if len(self._engines) == 1:
            return engines[0]
        by_address = {engine.address: engine for engine in engines}
        loads = {address: engine.outstanding_tokens for address, engine in by_address.items()}
        block_size = engines[0].model_info.block_size
        return by_address[self._router.choose(prompt, cache_salt, block_size, loads)]

    def _notify(self) -> None:
        ready = {engine.address for engine in self._engines if engine.ready}
        for lost in self._was_ready - ready:
            self._router.forget(lost)
        self._was_ready = ready
        # A new event for each change: whoever waits sees this one, whoever comes later the next.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
