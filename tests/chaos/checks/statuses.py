"""How a call may end that is the caller's own affair, whatever it sent."""

import grpc

CUT = "ended before it was read"
"""Of a call that ended while its caller went on writing."""
ALLOWED = frozenset(
    {
        *("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "NOT_FOUND", "DEADLINE_EXCEEDED"),
        *("UNIMPLEMENTED", "ALREADY_EXISTS", "OUT_OF_RANGE", "FAILED_PRECONDITION", CUT),
    }
)
"""Answered, or refused for what it is."""
_WRITTEN_TOO_LATE = "Internal error from Core"
"""What grpc.aio's client says then; the call's own status is lost."""
_ABORTED = " was aborted"


def status_of(error: grpc.aio.AioRpcError) -> str:
    """The name of its status, or CUT."""
    return CUT if error.details() == _WRITTEN_TOO_LATE else error.code().name


def is_allowed(error: grpc.aio.AioRpcError) -> bool:
    """Whether a call may end so. Some callers abort the requests of others."""
    aborted = error.code() is grpc.StatusCode.CANCELLED and (error.details() or "").endswith(
        _ABORTED
    )
    return aborted or status_of(error) in ALLOWED
