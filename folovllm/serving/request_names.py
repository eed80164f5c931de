"""What names callers may give to requests in a session."""

from folovllm.errors import InvalidRequestError

MAX_NAME_BYTES = 256


def check_name(field: str, name: str) -> None:
    """Raises InvalidRequestError naming `field` if a name is missing or too long."""
    if not name:
        raise InvalidRequestError(field, f"{field} must be set")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidRequestError(field, f"{field} is over {MAX_NAME_BYTES} bytes long")
