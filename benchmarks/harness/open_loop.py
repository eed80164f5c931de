"""Open-loop serving: requests arrive at a rate, whether or not those before them are done.

Latencies count from the time at which a request should arrive, so a late one is not forgiven.
Standard library only.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple


class Arrival(NamedTuple):
    """A request: when it comes, in seconds from the start, and what it asks for."""

    time_s: float
    prompt_token_ids: list[int]
    new_tokens: int


def from_json(arrivals: Sequence[Any]) -> list[Arrival]:
    """Arrivals that crossed a pipe as lists."""
    return [Arrival(*arrival) for arrival in arrivals]


@dataclass(frozen=True, slots=True)
class Load:
    """Requests with lengths drawn evenly from ranges, both ends included."""

    rate: float
    """Requests a second, on average; the gaps are exponential (Poisson arrivals)."""
    num_requests: int
    prompt_tokens: tuple[int, int]
    new_tokens: tuple[int, int]

    @property
    def name(self) -> str:
        """How many arrive a second."""
        return f"{self.rate:g} requests/s"

    def arrivals(self, turn: int, vocab_size: int) -> list[Arrival]:
        """The requests of a turn, the first at once."""
        draw = random.Random(f"open loop {turn}")
        arrivals, time_s = [], 0.0
        for _ in range(self.num_requests):
            length = draw.randint(*self.prompt_tokens)
            prompt = [draw.randrange(vocab_size) for _ in range(length)]
            arrivals.append(Arrival(time_s, prompt, draw.randint(*self.new_tokens)))
            time_s += draw.expovariate(self.rate)
        return arrivals


def latencies_ms(
    arrivals: Sequence[Arrival], token_times: Sequence[Sequence[float]]
) -> dict[str, float]:
    """By what they are, from each request's token times, in seconds from the start.

    Each request has a token. The p99 of few requests is the slowest.
    """
    first = [
        times[0] - arrival.time_s for arrival, times in zip(arrivals, token_times, strict=True)
    ]
    gaps = [after - before for times in token_times for before, after in pairwise(times)]
    return {
        f"{name} {label}": quantile(values, share) * 1e3
        for name, values in (("first token", first), ("inter-token", gaps))
        for label, share in (("p50", 0.5), ("p99", 0.99))
    }


def tokens_per_s(token_times: Sequence[Sequence[float]]) -> float:
    """All tokens over the time of the last one."""
    return sum(map(len, token_times)) / max(times[-1] for times in token_times)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
