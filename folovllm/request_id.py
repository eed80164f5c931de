"""Names for requests: those that we make, and what callers' own may be."""

import uuid

from folovllm.errors import InvalidRequestError

MAX_REQUEST_ID_BYTES = 256


def new_request_id() -> str:
    """A name that no other request has."""
    return f"req-{uuid.uuid4().hex}"


def check_request_id(field: str, name: str) -> None:
    """Raises InvalidRequestError naming `field` for a name that is missing or too long."""
    if not name:
        raise InvalidRequestError(field, f"{field} must be set")
    if len(name.encode()) > MAX_REQUEST_ID_BYTES:
        raise InvalidRequestError(field, f"{field} is over {MAX_REQUEST_ID_BYTES} bytes long")
