"""LoadReporter: the engine's load as the contract has it, told to a reader where it has changed."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine_service.engine.async_engine import AsyncEngine
from folovllm.v1 import engine_service_pb2

# Seconds from a change to the time when it is due, with other messages or without.
_INTERVAL = 0.1


def load_message(engine: AsyncEngine) -> engine_service_pb2.GetLoadResponse:
    """How busy the engine was after its latest step, with the requests that have come since."""
    load = engine.load
    return engine_service_pb2.GetLoadResponse(
        num_running=load.num_running,
        num_waiting=load.num_waiting,
        num_queued_tokens=load.num_queued_tokens,
        kv_cache_usage=load.kv_cache_usage,
        num_free_kv_blocks=load.num_free_kv_blocks,
        num_requests=engine.num_requests,
        num_admissible=engine.num_admissible,
    )


class LoadReporter:
    """What one reader has not been told of the load. No timer runs while the load stands still."""

    def __init__(self, engine: AsyncEngine, notify: Callable[[], None]) -> None:
        """`notify` is called when something is due."""
        self._engine = engine
        self._notify = notify
        self._told: engine_service_pb2.GetLoadResponse | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.due = True
        """Whether a changed load is to be told now, with or without anything else."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follows the load while it is open."""
        try:
            with self._engine.load_watched(self._tell_soon):
                yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def take(self) -> engine_service_pb2.GetLoadResponse | None:
        """The load, or None where that was told already."""
        self.due = False
        load = load_message(self._engine)
        if load == self._told:
            return None
        self._told = load
        return load

    def _tell_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self.due = True
        self._notify()
