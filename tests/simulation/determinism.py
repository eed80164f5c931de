"""What else a run could depend on, replaced while it runs: clocks, random numbers, loggers."""

import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from unittest.mock import patch

import structlog

from engine_service.engine import async_engine
from tokenizer_service.chat import parser


@contextmanager
def determined(clock: Callable[[], float], seed: int) -> Iterator[None]:
    """Everything that asks for the time or for random numbers gets the simulation's."""
    rng = Random(seed)

    def new_uuid() -> uuid.UUID:
        return uuid.UUID(int=rng.getrandbits(128), version=4)

    with (
        patch.object(time, "monotonic", clock),
        patch.object(secrets, "randbits", rng.getrandbits),
        patch.object(uuid, "uuid4", new_uuid),
        patch.object(parser, "uuid4", new_uuid),
        patch.object(async_engine, "free_host_memory", lambda: 2**34),
        _quiet(),
    ):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Drops what is logged."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=_SilentLogger, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


class _SilentLogger(structlog.BoundLoggerBase):
    """Takes everything and writes nothing."""

    def _drop(self, *arguments: object, **fields: object) -> None:
        """Whatever the level is."""

    debug = info = warning = error = exception = critical = _drop
