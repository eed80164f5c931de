"""Recorder: writes what has ended to a file, on a thread of its own.

    put ──▶ bounded queue ──▶ thread ──▶ file

Whoever puts something never waits. What finds no room in the queue, or cannot be written, is
dropped and counted, and the log says so.
"""

import threading
import time
from pathlib import Path
from queue import SimpleQueue

import structlog

from folovllm.errors import ConfigError
from folovllm.records.record_file import RecordFile
from tokenizer_service.audit.finished import Finished

# In the queue.
_MAX_TOKENS = 8 * 1024 * 1024
_MAX_REQUESTS = 16_384
# Seconds between two lines of the log on what was dropped.
_REPORT_INTERVAL = 10.0
# Seconds that the last records get when the service ends.
_LAST_RECORDS = 1.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("record")


class Recorder:
    """Appends a line for each request. Raises ConfigError if the file is not private; see there.

    Belongs to one process.
    """

    def __init__(
        self, path: Path, max_tokens: int = _MAX_TOKENS, max_requests: int = _MAX_REQUESTS
    ) -> None:
        """At most so many requests wait, of so many tokens together."""
        self._file = RecordFile(path)
        self.num_dropped = 0
        """Requests of which no line was written."""
        self._max_tokens, self._max_requests = max_tokens, max_requests
        self._num_tokens = 0
        self._num_requests = 0
        self._lock = threading.Lock()
        self._queue: SimpleQueue[tuple[Finished, float] | None] = SimpleQueue()
        self._num_reported = 0
        self._next_report = 0.0
        self._thread = threading.Thread(target=self._run, name=f"record to {path}", daemon=True)
        self._thread.start()

    def put(self, finished: Finished) -> None:
        """Takes what has ended, and returns at once."""
        num_tokens = finished.num_tokens
        with self._lock:
            has_room = self._num_requests < self._max_requests and (
                not self._num_requests or self._num_tokens + num_tokens <= self._max_tokens
            )
            if has_room:
                self._num_tokens += num_tokens
                self._num_requests += 1
            else:
                self.num_dropped += 1
        if has_room:
            self._queue.put((finished, time.time()))

    def close(self, seconds: float = _LAST_RECORDS) -> None:
        """Writes what is queued, but gives up after `seconds`; nothing may follow."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            finished, ended = item
            self._write(finished, ended)
            with self._lock:
                self._num_tokens -= finished.num_tokens
                self._num_requests -= 1
            self._report("")
        self._next_report = 0.0
        self._report("")
        self._file.close()

    def _write(self, finished: Finished, ended: float) -> None:
        try:
            self._file.append(finished.record(ended).to_line().encode())
        except (OSError, ConfigError) as error:
            self._drop(str(error))
        except Exception as error:  # this thread is the only one: whatever it is, it goes on
            log.error("record failed", request_id=finished.request_id, exc_info=error)
            self._drop("")

    def _drop(self, reason: str) -> None:
        with self._lock:
            self.num_dropped += 1
        self._report(reason)

    def _report(self, reason: str) -> None:
        """Tells how many were dropped, now and then."""
        now = time.monotonic()
        if self.num_dropped == self._num_reported or now < self._next_report:
            return
        self._next_report = now + _REPORT_INTERVAL
        count, self._num_reported = self.num_dropped - self._num_reported, self.num_dropped
        log.warning("records dropped", count=count, file=str(self._file.path), reason=reason)
