"""Attempts: where a request is tried again after an engine has failed it, and when no more."""

from collections.abc import Callable, Container

from folovllm.errors import (
    EngineDeadError,
    FolovError,
    QueueFullError,
    RequestLostError,
    UnavailableError,
)

# Engines that a request may have been lost with. It may be what kills them.
_MAX_LOST = 2
# Engines that a request may be sent to, whatever became of it.
_MAX_ATTEMPTS = 3

Begin = Callable[[Container[str], bool], str | None]
"""Begins the request at an engine that is none of these addresses and, if the bool is true, has
room; returns its address, or None if there is no such engine. Raises FolovError."""


class Attempts:
    """The engines that one request was sent to.

    A request that an engine refuses, or has lost before a step computed any of it, goes to another;
    one that is refused for lack of room, only to one that has room as far as is known. If none
    takes it, the caller is told the shortest time after which one may. One that a step may have
    computed when the engine was lost is tried once more and then given up. One that its engine
    blames is not tried again.
    """

    def __init__(self, address: str, begin: Begin) -> None:
        """It was sent to the engine at `address`."""
        self._address = address
        self._tried = {address}
        self._refusal: QueueFullError | None = None
        self.refused_by = address
        """Where it may return, after what the caller is told."""
        self._num_lost = 0
        self._begin = begin

    def try_again(self, error: FolovError, scheduled: bool) -> FolovError | None:
        """Sends the request to another engine, or returns the error that it ends with.

        `scheduled` is whether a step may have computed any of it.
        """
        if not isinstance(error, UnavailableError | QueueFullError):
            return error
        if isinstance(error, EngineDeadError):
            scheduled = error.scheduled
        if scheduled and isinstance(error, UnavailableError):
            self._num_lost += 1
        if self._num_lost >= _MAX_LOST:
            return RequestLostError(
                f"{error}; it is the second engine that was lost while it computed this request, "
                "which is not tried again"
            )
        final = error
        if isinstance(error, QueueFullError):
            final = self._shortest(error)
        if len(self._tried) >= _MAX_ATTEMPTS:
            return final
        try:
            other = self._begin(self._tried, isinstance(error, QueueFullError))
        except FolovError as raised:
            return raised
        if other is None:
            return final
        self._address = other
        self._tried.add(other)
        return None

    def _shortest(self, refusal: QueueFullError) -> QueueFullError:
        """The refusal with the shortest time until a return, of all so far."""
        if self._refusal is None or refusal.retry_after < self._refusal.retry_after:
            self._refusal, self.refused_by = refusal, self._address
        return self._refusal
