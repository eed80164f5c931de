"""Fields of a frozen dataclass that name the check that their values pass."""

from collections.abc import Callable
from dataclasses import field, fields
from functools import cache
from typing import Any


def checked(default: Any, check: Callable[..., None], *limits: Any, **metadata: Any) -> Any:
    """A field whose every value but its default passes `check(name, value, *limits)`."""
    return field(default=default, metadata={"check": check, "limits": limits, **metadata})


@cache
def checks_of(kind: type) -> list[tuple[str, object, Callable[..., None], tuple[Any, ...]]]:
    """Name, default, check and limits of each checked field of a dataclass."""
    return [
        (each.name, each.default, each.metadata["check"], each.metadata["limits"])
        for each in fields(kind)
        if "check" in each.metadata
    ]
