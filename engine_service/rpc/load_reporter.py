"""LoadReporter: sends the engine's load to one reader when it has changed."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine_service.engine.async_engine import AsyncEngine
from folovllm.v1 import engine_service_pb2

# Seconds after which a change is sent, with or without other messages.
_INTERVAL = 0.1


def load_message(engine: AsyncEngine) -> engine_service_pb2.GetLoadResponse:
    """How busy the engine was after its latest step, including the requests that came since."""
    load = engine.load
    return engine_service_pb2.GetLoadResponse(
        num_running=load.num_running,
        num_waiting=load.num_waiting,
        num_queued_tokens=load.num_queued_tokens,
        kv_cache_usage=load.kv_cache_usage,
        num_free_kv_blocks=load.num_free_kv_blocks,
        num_requests=engine.num_requests,
        num_admissible=engine.num_admissible,
        num_admitted=engine.num_admitted,
    )


class LoadReporter:
    """Knows which load one reader was sent last. No timer runs while the load does not change."""

    def __init__(self, engine: AsyncEngine, notify: Callable[[], None]) -> None:
        """`notify` is called when something is due."""
        self._engine = engine
        self._notify = notify
        self._sent: engine_service_pb2.GetLoadResponse | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.due = True
        """Whether a changed load must be sent now, with or without anything else."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches the load while it is open."""
        try:
            with self._engine.load_watched(self._notify_soon):
                yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def changed_load(self) -> engine_service_pb2.GetLoadResponse | None:
        """The load, which counts as sent; None if it was sent before."""
        self.due = False
        load = load_message(self._engine)
        if load == self._sent:
            return None
        self._sent = load
        return load

    def _notify_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._set_due)

    def _set_due(self) -> None:
        self._timer = None
        self.due = True
        self._notify()
