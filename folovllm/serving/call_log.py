"""What is logged about a request: one line at its end, and the traceback of a bug.

The same for a call of its own and for a request in a session.
"""

import time

import grpc
import structlog

from folovllm.errors import FolovError, ServerError

EVENT = "call"
"""Of the line of a request."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("call")


def log_end(method: str, code: grpc.StatusCode, started: float, **fields: object) -> None:
    """Writes the line of a request that began at `started`, a time of time.monotonic()."""
    milliseconds = round((time.monotonic() - started) * 1e3, 1)
    emit = log.warning if code is grpc.StatusCode.INTERNAL else log.info
    emit(EVENT, method=method, code=code.name, ms=milliseconds, **fields)


def as_folov_error(error: Exception, method: str) -> FolovError:
    """The error for the caller; a bug is logged, and becomes INTERNAL."""
    if isinstance(error, FolovError):
        return error
    log.error("call failed", method=method, exc_info=error)
    return ServerError("internal error; the server's log says more")
