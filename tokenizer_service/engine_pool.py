"""EnginePool: the engines that requests may go to, least loaded first."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from folovllm.errors import ModelMismatchError, NotFoundError, UnavailableError
from folovllm.v1 import types_pb2
from tokenizer_service.engine_client import EngineClient


class EnginePool:
    """Several engines of one model. Belongs to the event loop that it is made in."""

    def __init__(self, addresses: Sequence[str], tokenizer_fingerprint: str) -> None:
        self._engines = [EngineClient(address, tokenizer_fingerprint) for address in addresses]
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

    def pick(self) -> EngineClient:
        """The ready engine with the fewest streams, of equal ones the first that was given.

        Raises ModelMismatchError where the engines that are connected serve another model, else
        UnavailableError where none is ready.
        """
        ready = [engine for engine in self._engines if engine.ready]
        if ready:
            return min(ready, key=lambda engine: engine.num_outstanding)
        states = "; ".join(f"{engine.address}: {engine.state}" for engine in self._engines)
        if any(engine.connected for engine in self._engines):
            raise ModelMismatchError(f"no engine serves this service's model: {states}")
        raise UnavailableError(f"no engine is ready: {states}")

    def running(self, request_id: str) -> EngineClient:
        """The engine that runs a request which came through here. Raises NotFoundError."""
        for engine in self._engines:
            if engine.runs(request_id):
                return engine
        raise NotFoundError(f"no request {request_id} runs here")

    def model_info(self) -> types_pb2.ModelInfo:
        """What the engines serve, by the first that is ready. Raises as pick does."""
        first = next((engine for engine in self._engines if engine.ready), None)
        return (first or self.pick()).model_info

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

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Returns when an engine is ready.

        Raises as pick does after `timeout` seconds, and at once where waiting cannot help because
        every engine is connected and serves another model.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self.ready:
                    if all(engine.connected for engine in self._engines):
                        self.pick()
                    await self._changed.wait()
        except TimeoutError:
            self.pick()

    def _notify(self) -> None:
        # A new event for each change: whoever waits sees this one, whoever comes later the next.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
