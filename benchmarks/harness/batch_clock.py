"""BatchClock: when each sequence of a batch got its tokens, and an engine's speed from that.

Standard library only, as it also runs in the peers' own environments.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """What one run of a batch took."""

    prefill_s: float
    """From the start until every sequence had its first token."""
    decode_rate: float
    """Tokens a second of all sequences together, while all decoded; 0 if none did."""
    total_s: float
    """From the start until the last token."""


class BatchClock:
    """Starts when it is made; `add` counts tokens as they come."""

    def __init__(self, batch: int, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._started = now()
        self._arrivals: list[list[tuple[float, int]]] = [[] for _ in range(batch)]

    def add(self, sequence: int, num_tokens: int = 1) -> None:
        """Sequence number `sequence` got so many tokens just now."""
        if num_tokens:
            self._arrivals[sequence].append((self._now(), num_tokens))

    @property
    def tokens_per_arrival(self) -> float:
        """Tokens that a sequence got at a time, on average, after its first."""
        arrivals = [each for arrivals in self._arrivals for each in arrivals[1:]]
        return sum(count for _, count in arrivals) / len(arrivals)

    def timing(self) -> Timing:
        """What the run took; every sequence must have a token.

        A sequence's rate begins with its first arrival after all had one, so that it counts only
        whole steps, and those that began early in a chunked prefill gain nothing by it.
        """
        prefilled = max(arrivals[0][0] for arrivals in self._arrivals)
        rates = (_rate_after(prefilled, arrivals) for arrivals in self._arrivals)
        ended = max(arrivals[-1][0] for arrivals in self._arrivals)
        return Timing(prefilled - self._started, sum(rates), ended - self._started)


def _rate_after(begin: float, arrivals: list[tuple[float, int]]) -> float:
    """Tokens a second from the first arrival at or after `begin` to the last one."""
    counted = [arrival for arrival in arrivals if arrival[0] >= begin]
    if len(counted) < 2 or counted[-1][0] == counted[0][0]:
        return 0.0
    return sum(count for _, count in counted[1:]) / (counted[-1][0] - counted[0][0])
