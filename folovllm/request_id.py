"""Names for requests that were given none."""

import uuid


def new_request_id() -> str:
    """A name that no other request has."""
    return f"req-{uuid.uuid4().hex}"
