"""RefusedRequests: the names of those that were refused, and the turns that they were given."""

from dataclasses import dataclass

from engine_service.overload.demand import Demand
from engine_service.overload.recent_mean import RecentMean

# Seconds from its time on in which a turn can be used.
_VALID_SECONDS = 5.0
# Turns that are remembered, with names of at most so many characters: about 8 MiB at most.
_MAX_TURNS = 16_384
_MAX_NAME = 256
# The part of those refused that return, before it is known; as good as so many results. Those who
# return are seen before those who do not.
_FIRST_GUESS, _GUESS_WEIGHT = 0.05, 100
# Results that its mean is of.
_NUM_RESULTS = 200


@dataclass(frozen=True, slots=True)
class Turn:
    """What a refused request is told."""

    time: float
    arrival: float
    """When the request came for the first time."""
    demand: Demand
    """What it asked for; the turn is good for no more."""


class RefusedRequests:
    """Remembers turns until they have passed.

    While there are too many, no more are remembered: a promise that was given is kept, so nobody
    can push another's out by inventing names.
    """

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}  # oldest first
        self._returned = RecentMean(_FIRST_GUESS, _GUESS_WEIGHT, _NUM_RESULTS)

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def returning_share(self) -> float:
        """The part of them that return at their turn, 0 to 1, of late."""
        return self._returned.value

    def find(self, name: str, now: float) -> Turn | None:
        """The turn of a name, to come or due; None if it has none."""
        self._forget_passed(now)
        turn = self._turns.get(name)
        return None if turn is None or self._has_passed(turn, now) else turn

    def remember(self, name: str, turn: Turn) -> None:
        """Takes the place of the turn that the name had."""
        self.forget(name)
        if len(self._turns) < _MAX_TURNS and len(name) <= _MAX_NAME:
            self._turns[name] = turn

    def forget(self, name: str) -> None:
        """Its turn is used, or void."""
        if self._turns.pop(name, None) is not None:
            self._returned.add(1.0)

    def _forget_passed(self, now: float) -> None:
        """As far as they were given one after the other: every one in the end."""
        while self._turns:
            name = next(iter(self._turns))
            if not self._has_passed(self._turns[name], now):
                return
            del self._turns[name]
            self._returned.add(0.0)

    def _has_passed(self, turn: Turn, now: float) -> bool:
        return now > turn.time + _VALID_SECONDS
