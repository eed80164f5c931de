"""Watchdog: ends a process whose engine is stuck in a step.

First everyone who waits is told, then the stacks of all threads are logged, and if the process does
not end by itself then, it is ended. If no thread of Python gets to run any more, since one keeps
the interpreter's lock, a timer outside of Python writes the stacks and ends the process.
"""

import faulthandler
import sys
import tempfile
import threading
from collections.abc import Callable

import structlog

from engine_service.engine.async_engine import AsyncEngine
from folovllm.serving.output.standard_streams import exit_now

log: structlog.stdlib.BoundLogger = structlog.get_logger("engine")

_CHECKS = 10  # in the shortest time after which a step may be stuck
_MAX_INTERVAL = 1.0
# The seconds that the process gets to end by itself.
_END_LIMIT = 5.0
# A compiler may take so many times the floor.
_COMPILING_FACTOR = 20
_COMPILERS = ("triton.compiler", "triton.backends", "triton.runtime.build", "torch._inductor")


class Watchdog:
    """Watches an engine from a thread of its own, which sleeps while nothing is computed."""

    def __init__(self, engine: AsyncEngine, end: Callable[[int], object] = exit_now) -> None:
        """`end` ends the process with a status, whatever its threads do."""
        self._engine = engine
        self._clock = engine.step_clock
        self._interval = min(_MAX_INTERVAL, self._clock.floor / _CHECKS)
        self._end = end
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """From now on; the engine has started."""
        # The step may keep the lock that this object's thread would need.
        self._clock.on_wake = self._arm
        self._thread.start()

    def stop(self) -> None:
        """No more: what follows is bounded otherwise."""
        self._stopped.set()
        self._clock.on_wake = None
        self._clock.steps.set()  # wakes it
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._clock.steps.is_set():
                faulthandler.cancel_dump_traceback_later()
                self._clock.steps.wait()
                continue
            limit = self._arm()
            seconds = self._clock.seconds
            if seconds > limit and not self._compiles(seconds):
                self._give_up(seconds, limit)
                return
            self._stopped.wait(self._interval)

    def _arm(self) -> float:
        """The limit of the present step; the process ends if this is not called for so long."""
        limit = self._clock.limit(self._engine.num_step_tokens)
        if self._end is exit_now and sys.__stderr__ is not None:
            seconds = limit + 2 * self._interval
            faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
        return limit

    def _give_up(self, seconds: float, limit: float) -> None:
        ending = threading.Timer(_END_LIMIT, self._end, (1,))
        ending.daemon = True
        ending.start()
        self._engine.fail("the engine is stuck in a step")
        faulthandler.cancel_dump_traceback_later()
        log.error(
            "the engine is stuck in a step",
            seconds=round(seconds, 1),
            limit=round(limit, 1),
            tokens=self._engine.num_step_tokens,
            stack=all_stacks(),
        )

    def _compiles(self, seconds: float) -> bool:
        """Whether a kernel is compiled that is used for the first time."""
        frame = sys._current_frames().get(self._engine.thread_id)
        while frame is not None:
            if str(frame.f_globals.get("__name__")).startswith(_COMPILERS):
                return seconds < _COMPILING_FACTOR * self._clock.floor
            frame = frame.f_back
        return False


def all_stacks() -> str:
    """The stacks of all threads."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
