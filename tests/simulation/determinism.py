"""What else a run could depend on, replaced while it runs: clocks, random numbers, loggers."""

import logging
import secrets
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import ClassVar
from unittest.mock import patch

import structlog

from engine_service.engine import async_engine


@contextmanager
def determined(clock: Callable[[], float], seed: int) -> Iterator[list[str]]:
    """Everything that asks for the time or for random numbers gets the simulation's.

    Yields the errors that are logged with a traceback.
    """
    rng = Random(seed)

    def new_uuid() -> uuid.UUID:
        return uuid.UUID(int=rng.getrandbits(128), version=4)

    with (
        patch.object(time, "monotonic", clock),
        patch.object(secrets, "randbits", rng.getrandbits),
        patch.object(uuid, "uuid4", new_uuid),
        patch.object(async_engine, "free_host_memory", lambda: 2**34),
        _quiet() as errors,
    ):
        yield errors


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Writes nothing of what is logged; yields the errors with a traceback."""
    errors: list[str] = []
    before, handler, root = structlog.get_config(), _Handler(errors), logging.getLogger()
    logger = type("SilentLogger", (_SilentLogger,), {"errors": errors})
    structlog.configure(wrapper_class=logger, cache_logger_on_first_use=False)
    handlers, root.handlers = root.handlers, [handler]
    try:
        yield errors
    finally:
        root.handlers = handlers
        structlog.configure(**before)


class _Handler(logging.Handler):
    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._errors.append(f"{record.getMessage()}: {error!r}{where(error)}")


class _SilentLogger(structlog.BoundLoggerBase):
    """Takes everything and writes nothing."""

    errors: ClassVar[list[str]] = []

    def _drop(self, *arguments: object, **fields: object) -> None:
        """Whatever the level is."""

    def error(self, event: str = "", *, exc_info: object = None, **fields: object) -> None:
        if exc_info is not None:
            self.errors.append(f"{event}: {exc_info!r}{where(exc_info)}")

    debug = info = warning = exception = critical = _drop


def where(error: object) -> str:
    """The last lines of a traceback."""
    if not isinstance(error, BaseException):
        return ""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return "".join(f"; {Path(frame.filename).name}:{frame.lineno}" for frame in frames)
