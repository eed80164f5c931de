"""Workers: processes that serve on one port together, and the parent that keeps them running.

The parent forks them before gRPC starts, so that they share the memory of what it has loaded, and
answers no calls itself. A worker that ends is logged and replaced. Each SIGTERM or SIGINT to the
parent becomes SIGTERM to every worker; the parent ends after the last of them. If the parent
disappears for any reason, its workers get SIGTERM.
"""

import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

import structlog

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
# Minimum seconds from the start of a worker to its replacement: some fail at once.
_RESTART_INTERVAL = 1.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("workers")


class Workers:
    """Runs `work` in `count` processes; its result is a worker's exit status.

    Belongs to the main thread, whose signal handling it takes over.
    """

    def __init__(self, count: int, work: Callable[[], int]) -> None:
        self._count = count
        self._work = work
        self._started_at: dict[int, float] = {}  # by process id, of the running workers
        self._no_start_before = 0.0
        self._stopping = False
        self._failed = False
        # The workers hold its reading end, which is closed when the parent ends.
        self._life, self._parent_end = os.pipe()
        self._signals, self._notify = os.pipe()
        os.set_blocking(self._notify, False)

    def run(self) -> int:
        """Keeps the workers running until SIGTERM or SIGINT, then waits for the last to end.

        The exit status: 0, or 1 if a worker failed while it stopped.
        """
        # Signals go through a pipe, whichever thread of the process gets them.
        signal.set_wakeup_fd(self._notify)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        while self._started_at or not self._stopping:
            if select.select([self._signals], [], [], self._start_missing())[0]:
                for received in os.read(self._signals, 64):
                    self._handle(received)
        return int(self._failed)

    def _handle(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
            return
        self._stopping = True
        for pid in self._started_at:
            os.kill(pid, signal.SIGTERM)

    def _start_missing(self) -> float | None:
        """Starts missing workers, or returns the seconds until it may."""
        if self._stopping or len(self._started_at) == self._count:
            return None
        pause = self._no_start_before - time.monotonic()
        if pause > 0:
            return pause
        while len(self._started_at) < self._count:
            self._start()
        return None

    def _start(self) -> None:
        # No signal between fork and the worker's own handling may reach the parent's pipe.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            self._become_worker()
        self._started_at[pid] = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        log.info("worker started", pid=pid)

    def _become_worker(self) -> NoReturn:
        status = 1
        try:
            os.close(self._parent_end)
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            # SIGINT stays blocked: a terminal sends it to the parent too, which forwards it.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGCHLD})
            threading.Thread(
                target=self._end_with_parent, name="end-with-parent", daemon=True
            ).start()
            status = self._work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            # Without what the parent would do at its own exit.
            os._exit(status)

    def _end_with_parent(self) -> None:
        os.read(self._life, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _reap(self) -> None:
        for pid, started_at in list(self._started_at.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            del self._started_at[pid]
            self._no_start_before = started_at + _RESTART_INTERVAL
            code = os.waitstatus_to_exitcode(status)
            # A worker that got SIGTERM while it started had nothing to finish.
            if not (self._stopping and code in (0, -signal.SIGTERM)):
                self._failed |= self._stopping
                cause = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
                log.error("worker ended", pid=pid, cause=cause, restarted=not self._stopping)
