"""LoadReports: tells every session of the engine's load where it has changed, at a bounded rate.

A message with outputs has the load anyway. Besides, one timer for all sessions tells those first
that were told longest ago. So a few front ends learn of a change within a tenth of a second, and
thousands of idle ones cost no more than ten do.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from engine_service.engine.async_engine import AsyncEngine
from folovllm.v1 import engine_service_pb2

# Seconds between two rounds of reports, while the load changes.
_INTERVAL = 0.1
# Sessions that are told in a round.
_ROUND = 10


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


class LoadReports:
    """Who is to be told of the load next. Without a change of it no timer runs."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reporters: dict[LoadReporter, None] = {}  # told longest ago first
        self._num_changes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._watching = ExitStack()

    def add(self, reporter: "LoadReporter") -> None:
        """Has a session told from now on."""
        if not self._reporters:
            self._watching.enter_context(self._engine.load_watched(self._changed))
        self._reporters[reporter] = None

    def remove(self, reporter: "LoadReporter") -> None:
        """The session has ended."""
        del self._reporters[reporter]
        if not self._reporters:
            self._watching.close()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def tell(self, reporter: "LoadReporter") -> engine_service_pb2.GetLoadResponse:
        """The load for a reporter, which knows it from now on."""
        self._put_last(reporter)
        return load_message(self._engine)

    def _changed(self) -> None:
        self._num_changes += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._report)

    def _report(self) -> None:
        self._timer = None
        stale = [each for each in self._first() if each.num_changes != self._num_changes]
        for reporter in stale:
            # Now: one that cannot write must not keep the others waiting.
            self._put_last(reporter)
            reporter.set_due()
        if len(stale) == _ROUND < len(self._reporters):
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._report)

    def _put_last(self, reporter: "LoadReporter") -> None:
        reporter.num_changes = self._num_changes
        del self._reporters[reporter]
        self._reporters[reporter] = None

    def _first(self) -> list["LoadReporter"]:
        return [reporter for reporter, _ in zip(self._reporters, range(_ROUND), strict=False)]


class LoadReporter:
    """Knows which load one session was sent last."""

    def __init__(self, reports: LoadReports, notify: Callable[[], None]) -> None:
        """`notify` is called when something is due."""
        self._reports = reports
        self._notify = notify
        self._sent: engine_service_pb2.GetLoadResponse | None = None
        self.num_changes = -1
        """How often the load had changed when this one was told last, or asked to tell."""
        self.due = True
        """Whether a changed load must be sent now, with or without anything else."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches the load while it is open."""
        self._reports.add(self)
        try:
            yield
        finally:
            self._reports.remove(self)

    def changed_load(self) -> engine_service_pb2.GetLoadResponse | None:
        """The load, which counts as sent; None if it was sent before."""
        self.due = False
        load = self._reports.tell(self)
        if load == self._sent:
            return None
        self._sent = load
        return load

    def set_due(self) -> None:
        """Has the load sent as soon as the session can."""
        self.due = True
        self._notify()
