"""Ids for requests without one."""

import uuid


def random_uuid() -> str:
    """32 hexadecimal digits that nothing else has."""
    return uuid.uuid4().hex


def new_request_id() -> str:
    """An id that no other request has."""
    return f"req-{random_uuid()}"
