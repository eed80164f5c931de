"""Turns: when those that are refused may come back, one after the other."""

# Seconds until a turn, at least: another attempt costs something too.
_MIN_SECONDS = 0.25
# Seconds until a turn, at most, while few return; while all do; and after there will be room, if
# that is later.
_MAX_SECONDS, _MAX_SECONDS_FOR_ALL, _MIN_SPREAD = 10.0, 60.0, 2.0


class Turns:
    """Hands out successive times, as far apart as the engine needs for what returns at them.

    Once they are too far ahead they begin again where there will be room first. So turns are
    booked more than once: the less so, the more of those refused return. And nobody can fill the
    future.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def book(self, now: float, wait: float, seconds: float, returning_share: float) -> float:
        """The time of a turn that lasts `seconds`; there will be no room for `wait` seconds.

        `returning_share` is the part of those refused that return, 0 to 1.
        """
        first = now + max(wait, _MIN_SECONDS)
        furthest = max(_MAX_SECONDS, _MAX_SECONDS_FOR_ALL * returning_share, wait + _MIN_SPREAD)
        turn = max(self._next, first)
        if turn > now + furthest:
            turn = first
        self._next = turn + min(seconds, furthest)
        return turn
