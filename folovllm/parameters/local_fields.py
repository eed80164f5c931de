"""Fields of dataclasses that stay in the process where they were set: no converter sends them."""

from dataclasses import Field, fields
from typing import Any

LOCAL = {"local": True}
"""The metadata of such a field."""


def sent_fields(kind: type) -> list["Field[Any]"]:
    """The fields that make a dataclass what it is elsewhere: neither local nor derived."""
    return [each for each in fields(kind) if each.init and "local" not in each.metadata]
