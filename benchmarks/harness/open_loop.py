"""Open-loop serving: requests arrive at a rate, whether or not those before them are done.

Latencies count from the time at which a request should arrive, so a late one is not forgiven.
Standard library only.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: when it comes, in seconds from the start, and what it asks."""

    time_s: float
    prompt_token_ids: list[int]
    new_tokens: int

    @classmethod
    def from_json(cls, values: Sequence[object]) -> "Arrival":
        """From the list that `dataclasses.astuple` makes."""
        time_s, ids, new_tokens = values
        assert isinstance(time_s, int | float) and isinstance(ids, list)
        assert isinstance(new_tokens, int)
        return cls(time_s, ids, new_tokens)


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
        """How many come a second."""
        return f"{self.rate:g} requests/s"

    @property
    def max_model_len(self) -> int:
        """Most tokens of one request."""
        return self.prompt_tokens[1] + self.new_tokens[1]

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV if all were there at once."""
        return self.num_requests * self.max_model_len

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


@dataclass(frozen=True, slots=True)
class Latencies:
    """What the requests of one turn saw. Milliseconds; p99 of few requests is the slowest."""

    first_token_p50_ms: float
    first_token_p99_ms: float
    inter_token_p50_ms: float
    inter_token_p99_ms: float
    tokens_per_s: float
    """From the first arrival to the last token."""


def latencies(arrivals: Sequence[Arrival], token_times: Sequence[Sequence[float]]) -> Latencies:
    """From each request's token times, in seconds from the start; each has a token."""
    first = [
        times[0] - arrival.time_s for arrival, times in zip(arrivals, token_times, strict=True)
    ]
    gaps = [
        after - before
        for times in token_times
        for before, after in zip(times, times[1:], strict=False)
    ]
    num_tokens = sum(map(len, token_times))
    return Latencies(
        first_token_p50_ms=quantile(first, 0.5) * 1e3,
        first_token_p99_ms=quantile(first, 0.99) * 1e3,
        inter_token_p50_ms=quantile(gaps, 0.5) * 1e3,
        inter_token_p99_ms=quantile(gaps, 0.99) * 1e3,
        tokens_per_s=num_tokens / max(times[-1] for times in token_times),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed; 0 of none."""
    if not values:
        return 0.0
    if share == 0.5:
        return statistics.median(values)
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
