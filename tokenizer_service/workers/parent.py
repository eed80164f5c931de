"""Workers: processes that serve on one port together, and the parent that keeps them running.

The parent forks them before gRPC starts, so that they share the memory of what it has loaded, and
answers no calls itself. A worker that ends is logged and replaced; so is one that hangs, since new
connections would still be given to it. Workers that all end soon after their start end the parent.

Each SIGTERM or SIGINT to the parent becomes SIGTERM to every worker; the parent ends after the last
of them, and those that do not end are killed. If the parent disappears for any reason, its workers
get SIGTERM.
"""

import math
import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import structlog

from folovllm.errors import ConfigError
from folovllm.serving.output.standard_streams import exit_now
from tokenizer_service.workers.worker import Heart, Worker

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
# Seconds between the start of a worker that failed soon and its replacement, doubled each time.
_RESTART_INTERVAL = 1.0
_MAX_RESTART_INTERVAL = 30.0
# A worker that has run for so many seconds did not fail at its start.
_SETTLED = 10.0
# So many failures at the start, for each worker, are enough.
_MAX_FAILURES = 5
# Seconds between the second signal and the end of a worker that does not heed it.
_LAST_GRACE = 2.0
_TICK = 1.0
# Seconds for which a worker may be stopped by a signal, which is no long computation.
_MAX_STOPPED = 3.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("workers")


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What a worker may take, in seconds."""

    hang_timeout: float
    """Without a sign of life until it is replaced."""
    stop_timeout: float
    """From SIGTERM until it is killed."""


class Workers:
    """Runs `work` in `count` processes; its result is a worker's exit status.

    `work` must keep the heart beating that it gets. Belongs to the main thread, whose signal
    handling it takes over.
    """

    def __init__(self, count: int, work: Callable[[Heart], int], limits: WorkerLimits) -> None:
        self._count = count
        self._work = work
        self._limits = limits
        self._workers: dict[int, Worker] = {}  # by process id
        self._failures = 0  # at the start, in a row
        self._no_start_before = 0.0
        self._next_tick = 0.0
        self._kill_at = math.inf
        self._stopping = False
        self._failed = False
        self._gave_up = ""
        # The workers hold its reading end, which is closed when the parent ends.
        self._life, self._parent_end = os.pipe()
        self._signals, self._notify = os.pipe()
        os.set_blocking(self._notify, False)

    def run(self) -> int:
        """Keeps the workers running until SIGTERM or SIGINT, then waits for the last to end.

        The exit status: 0, or 1 if a worker failed while it stopped. Raises ConfigError if workers
        only fail.
        """
        # Signals go through a pipe, whichever thread of the process gets them.
        signal.set_wakeup_fd(self._notify)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        while self._workers or not self._stopping:
            self._start_missing()
            self._wait()
            self._tick()
        if self._gave_up:
            raise ConfigError(self._gave_up)
        return int(self._failed)

    def _wait(self) -> None:
        """Handles what happens until something is due."""
        due = min(self._next_tick, self._kill_at)
        if not self._stopping and len(self._workers) < self._count:
            due = min(due, self._no_start_before)
        beating = {worker.beats: worker for worker in self._workers.values()}
        timeout = max(0.0, due - time.monotonic())
        ready = select.select([self._signals, *beating], [], [], timeout)[0]
        for fd in beating.keys() & set(ready):
            beating[fd].hear()
        if self._signals in ready:
            for number in os.read(self._signals, 64):
                self._handle(number)

    def _handle(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        else:
            self._stop(_LAST_GRACE if self._stopping else self._limits.stop_timeout)

    def _stop(self, grace: float) -> None:
        self._stopping = True
        self._kill_at = min(self._kill_at, time.monotonic() + grace)
        for worker in self._workers.values():
            worker.send(signal.SIGTERM)

    def _tick(self) -> None:
        """Counts the seconds in which the parent itself runs: it may have been stopped too."""
        now = time.monotonic()
        if now >= self._kill_at:
            self._kill_at = math.inf
            for worker in self._workers.values():
                log.error("worker does not stop", pid=worker.pid)
                worker.send(signal.SIGKILL)
        if now < self._next_tick:
            return
        self._next_tick = now + _TICK
        for worker in self._workers.values():
            seconds = self._limits.hang_timeout
            if worker.is_stopped:
                seconds = min(seconds, _MAX_STOPPED)
            if worker.tick(math.ceil(seconds / _TICK)):
                # Before its stacks, which it writes to the same place.
                log.error("worker hangs", pid=worker.pid, silent_for=worker.silent_for)
                worker.end()

    def _start_missing(self) -> None:
        """Starts missing workers, unless it is too soon."""
        if self._stopping or time.monotonic() < self._no_start_before:
            return
        while len(self._workers) < self._count:
            self._start()

    def _start(self) -> None:
        beats, writing = os.pipe()
        for fd in (beats, writing):
            os.set_blocking(fd, False)
        # No signal between fork and the worker's own handling may reach the parent's pipe.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            self._become_worker(beats, Heart(writing))
        os.close(writing)
        self._workers[pid] = Worker(pid, beats)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        log.info("worker started", pid=pid)

    def _become_worker(self, beats: int, heart: Heart) -> NoReturn:
        status = 1
        try:
            for fd in (self._parent_end, beats, *(each.beats for each in self._workers.values())):
                os.close(fd)
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            # SIGINT stays blocked: a terminal sends it to the parent too, which forwards it.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGCHLD})
            threading.Thread(
                target=self._end_with_parent, name="end-with-parent", daemon=True
            ).start()
            status = self._work(heart)
        except BaseException:
            traceback.print_exc()
        finally:
            # Without what the parent would do at its own exit.
            exit_now(status)

    def _end_with_parent(self) -> None:
        os.read(self._life, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _reap(self) -> None:
        for worker in list(self._workers.values()):
            changed, status = os.waitpid(worker.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not changed:
                continue
            if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
                worker.is_stopped = os.WIFSTOPPED(status)
                continue
            del self._workers[worker.pid]
            worker.close()
            code = os.waitstatus_to_exitcode(status)
            cause = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            if not self._stopping:
                self._plan_restart(worker, cause)
            # A worker that got SIGTERM while it started had nothing to finish.
            elif code not in (0, -signal.SIGTERM):
                self._failed = True
            else:
                continue
            log.error("worker ended", pid=worker.pid, cause=cause, restarted=not self._stopping)

    def _plan_restart(self, worker: Worker, cause: str) -> None:
        """Decides when a worker that has ended is replaced, or that this is enough."""
        if worker.age >= _SETTLED:
            self._failures = 0
            return
        self._failures += 1
        rounds = (self._failures - 1) // self._count
        interval = min(_RESTART_INTERVAL * 2**rounds, _MAX_RESTART_INTERVAL)
        self._no_start_before = worker.started_at + interval
        settled = any(other.age >= _SETTLED for other in self._workers.values())
        if self._failures >= _MAX_FAILURES * self._count and not settled:
            self._gave_up = f"{self._failures} workers in a row ended at their start: {cause}"
            self._stop(self._limits.stop_timeout)
