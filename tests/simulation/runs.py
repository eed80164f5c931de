"""Runs: many scenarios after each other, and what they have shown together."""

import gc
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from simulation.scenario import Scenario, Shape, scenario_of
from simulation.world import Result, World


@dataclass
class Total:
    """Of several runs."""

    num_seeds: int = 0
    num_requests: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    """Of the processor."""
    virtual_seconds: float = 0.0
    failed: list[Scenario] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result, seconds: float) -> None:
        """Counts a run."""
        self.num_seeds += 1
        self.num_requests += len(result.records)
        self.num_tokens += result.num_tokens
        self.seconds += seconds
        self.virtual_seconds += result.seconds
        self.counts += result.counts
        if result.complaints:
            self.failed.append(result.scenario)
            seed = result.scenario.seed
            self.complaints += [f"seed {seed}: {each}" for each in result.complaints]

    def lines(self) -> Iterable[str]:
        """For people."""
        mean = self.num_tokens / max(1, self.num_requests)
        rate = self.num_requests / max(1e-9, self.seconds)
        yield (
            f"{self.num_seeds} seeds, {self.num_requests} requests, {self.num_tokens} tokens "
            f"({mean:.1f} each), {self.virtual_seconds:.0f} s of virtual time"
        )
        yield f"{self.seconds:.1f} s of processor time: {rate:.0f} requests a second"
        yield f"{len(self.complaints)} violations in {len(self.failed)} seeds"
        for title, prefix in (("faults", "fault: "), ("moves", "moved "), ("ends", "end: ")):
            counts = {
                name.removeprefix(prefix): count
                for name, count in sorted(self.counts.items())
                if name.startswith(prefix)
            }
            if counts:
                yield f"{title}: " + ", ".join(f"{count} {name}" for name, count in counts.items())


def run_seeds(seeds: Iterable[int], shape: Shape, max_requests: float = math.inf) -> Total:
    """Runs the scenarios of some seeds, until there were so many requests or 20 have failed."""
    total = Total()
    with _little_to_collect():
        for seed in seeds:
            begun = time.process_time()
            result = World(scenario_of(seed, shape)).run()
            gc.collect()
            total.add(result, time.process_time() - begun)
            if total.num_requests >= max_requests or len(total.failed) >= 20:
                break
    return total


@contextmanager
def _little_to_collect() -> Iterator[None]:
    """Leaves out what was there before, so that what a run leaves behind is collected quickly."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
