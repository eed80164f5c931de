"""Attempts: whether what an engine has failed may go to another, and when no more."""

from dataclasses import dataclass
from typing import Protocol

from folovllm.errors import (
    EngineDeadError,
    FolovError,
    QueueFullError,
    RequestLostError,
    UnavailableError,
)

# Engines that one may have been lost with in a row. It may be what kills them.
_MAX_LOST = 2
# Engines that may refuse one in a row.
_MAX_REFUSALS = 3


class Place(Protocol):
    """An engine's session."""

    address: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an engine does not go on with something."""

    error: FolovError
    admitted: bool = False
    """Whether the engine had taken it."""
    scheduled: bool = False
    """Whether the engine was lost, and a step may have computed any of it."""

    @classmethod
    def told(cls, error: FolovError, scheduled: bool) -> "Failure":
        """What an engine says itself of something; `scheduled` is whether it had begun it."""
        if isinstance(error, EngineDeadError):
            return cls(error, admitted=True, scheduled=error.scheduled)
        return cls(error, admitted=scheduled)


class Attempts:
    """The engines that one part of a stream was sent to since its last new token.

    What an engine refuses, or has lost before a step computed any of it, goes to another. If none
    takes it, the caller is told the shortest time after which one may. What a step may have
    computed when its engine was lost is suspected of having caused that: it is tried once more, and
    given up unless a token comes. What its engine blames is not tried again.

    An engine counts by its session: one that is met again is another.
    """

    def __init__(self) -> None:
        self.tried: list[Place] = []
        """The sessions, in that order."""
        self.num_lost = 0
        """Those of them that were lost while they may have computed it."""
        self.was_admitted = False
        """Whether any engine has ever taken it."""
        self.refused_by = ""
        """Where it may return, after what the caller is told."""
        self._num_refusals = 0
        self._refusal: QueueFullError | None = None
        self.is_over = True
        """Whether there is nothing that a new token would clear."""

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what its last engine has died of."""
        return self.num_lost > 0

    def begin(self, place: Place) -> None:
        """It is sent to an engine."""
        self.is_over = not self.tried
        self.tried.append(place)

    def succeed(self) -> None:
        """A new token has come, so it was not to blame for what had failed."""
        del self.tried[:-1]
        self.num_lost = self._num_refusals = 0
        self.is_over, self._refusal = True, None

    def note_admitted(self) -> None:
        """Its engine had taken it. Those that had refused it for load will not do so again."""
        if not self.was_admitted:
            self.was_admitted = True
            self._num_refusals = 0
            del self.tried[:-1]

    def leave(self, place: Place) -> None:
        """It is taken from an engine that is silent, and may return when that speaks again."""
        self.tried.remove(place)

    def fail(self, failure: Failure) -> FolovError | None:
        """Its engine has failed it. Returns the error that it ends with, if that is now."""
        error = failure.error
        self.is_over = False
        if failure.admitted:
            self.note_admitted()
        if not isinstance(error, UnavailableError | QueueFullError):
            return error
        self.num_lost += failure.scheduled
        if self.num_lost >= _MAX_LOST:
            return RequestLostError(
                f"{error}; it is the second engine that was lost while it computed this request, "
                "which is not tried again"
            )
        if isinstance(error, QueueFullError):
            self._note_refusal(error)
        self._num_refusals += not failure.admitted
        return self.final(error) if self._num_refusals >= _MAX_REFUSALS else None

    def final(self, error: FolovError) -> FolovError:
        """What it ends with where no other engine takes it after this error."""
        if not self.was_admitted:
            return self._refusal or error  # an engine that was full may have room later
        if isinstance(error, QueueFullError):  # it had its place once
            return UnavailableError(f"no engine goes on with it: {error}")
        return error

    def _note_refusal(self, refusal: QueueFullError) -> None:
        """Keeps the one with the shortest time until a return."""
        if self._refusal is None or refusal.retry_after < self._refusal.retry_after:
            self._refusal, self.refused_by = refusal, self.tried[-1].address
