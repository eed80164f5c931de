"""What names callers may give to requests in a session."""

from folovllm.bounds.table import message_bounds
from folovllm.errors import InvalidRequestError
from folovllm.v1 import types_pb2

MAX_NAME_BYTES = message_bounds(types_pb2.Request.DESCRIPTOR).max_bytes("request_id")


def check_name(field: str, name: str) -> None:
    """Raises InvalidRequestError naming `field` if a name is missing or too long."""
    if not name:
        raise InvalidRequestError(field, f"{field} must be set")
    if len(name) > MAX_NAME_BYTES or len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidRequestError(field, f"{field} may have at most {MAX_NAME_BYTES} bytes")
