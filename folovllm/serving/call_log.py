"""What is logged about a request: one line at its end, and the traceback of a bug.

The same for a call of its own and for a request in a session.
"""

import time

import grpc
import structlog

from folovllm.errors import FolovError, ServerError

# All headers together have 8 KiB. They hold a message three times: in grpc-message, where a byte
# may take three, and twice in the details, in base64.
_MAX_MESSAGE_BYTES = 1024

EVENT = "call"
"""Of the line of a request."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("call")


def log_end(method: str, code: grpc.StatusCode, started: float, **fields: object) -> None:
    """Writes the line of a request that began at `started`, a time of time.monotonic()."""
    milliseconds = round((time.monotonic() - started) * 1e3, 1)
    emit = log.warning if code is grpc.StatusCode.INTERNAL else log.info
    emit(EVENT, method=method, code=code.name, ms=milliseconds, **fields)


def as_folov_error(error: Exception, method: str) -> FolovError:
    """The error for the caller; a bug is logged, and becomes INTERNAL.

    Its message is cut where it is long, as one that quotes the caller may be: it travels in
    headers, and what has no room there would reach the caller as another error.
    """
    if isinstance(error, FolovError):
        message = str(error).encode(errors="replace")
        if len(message) > _MAX_MESSAGE_BYTES:
            error.args = (message[:_MAX_MESSAGE_BYTES].decode(errors="ignore") + " …",)
        return error
    log.error("call failed", method=method, exc_info=error)
    return ServerError("internal error; the server's log says more")
