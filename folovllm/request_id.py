"""Ids for requests without one."""

import uuid


def new_request_id() -> str:
    """An id that no other request has."""
    return f"req-{uuid.uuid4().hex}"
