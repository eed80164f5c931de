"""How long a call takes on a device, without what it costs the host to start it.

Calls are captured in a CUDA graph, one after another over several sets of inputs that together are
larger than the device's cache, and the graph is replayed between two events. On a CPU the clock
has to do.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[], object]

# A replay is to take so long that its events weigh nothing, and to have so few nodes that
# capturing them takes no time worth counting.
_REPLAY_S = 1e-3
_MOST_CALLS = 2000
_FEWEST, _MOST = 5, 50
_MOST_SETS = 64


@dataclass(frozen=True, slots=True)
class Timing:
    """The median of the repeats."""

    seconds: float
    """Of one call."""
    captured: bool
    """Whether a graph was replayed; else the host's work is in it."""


def num_input_sets(num_bytes: float, cache_bytes: int) -> int:
    """How many sets of inputs of so many bytes fill the cache more than twice; 64 at most."""
    return min(_MOST_SETS, -(-2 * cache_bytes // max(1, int(num_bytes))) + 1)


def cache_bytes(device: torch.device) -> int:
    """The size of the device's L2 cache; 0 for a CPU, where nothing depends on it here."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def time_calls(
    calls: Sequence[Call], device: torch.device, seconds: float = 0.2, capture: bool = True
) -> Timing:
    """The time of one of the calls, which are alike. Spends about so many seconds on replays.

    Each is called once before, so that what is compiled or chosen at the first call is done. Where
    capturing fails, or is not wanted, the calls are timed as they are.
    """
    for call in calls:
        call()
    if device.type != "cuda":
        return Timing(_median(lambda: _clock(calls), seconds) / len(calls), captured=False)
    torch.cuda.synchronize(device)
    if not capture:
        return Timing(_median(lambda: _events(lambda: _all(calls)), seconds) / len(calls), False)
    try:
        replay, num_calls = _captured_to_last(calls)
    except RuntimeError:
        # A broken context says so here, and not as a time.
        torch.cuda.synchronize(device)
        return Timing(_median(lambda: _events(lambda: _all(calls)), seconds) / len(calls), False)
    return Timing(_median(lambda: _events(replay), seconds) / num_calls, captured=True)


def _captured_to_last(calls: Sequence[Call]) -> tuple[Call, int]:
    """A replay of all calls, again and again until it is long enough; and how many it has."""
    replay = _capture(calls, rounds=1)
    replay()
    once = max(_events(replay), 1e-7)
    rounds = min(round(_REPLAY_S / once), _MOST_CALLS // len(calls))
    if rounds <= 1:
        return replay, len(calls)
    return _capture(calls, rounds), rounds * len(calls)


def _capture(calls: Sequence[Call], rounds: int) -> Call:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            _all(calls)
    return graph.replay


def _all(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def _events(work: Call) -> float:
    """Seconds of the device between the work's start and its end."""
    start, end = _event(), _event()
    start.record()
    work()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _clock(calls: Sequence[Call]) -> float:
    started = time.perf_counter()
    _all(calls)
    return time.perf_counter() - started


def _median(measure: Callable[[], float], seconds: float) -> float:
    """Of so many repeats as fit, within bounds; of one where no time is given."""
    first = measure()
    if not seconds:
        return first
    wanted = int(seconds / max(first, 1e-9))
    repeats = min(max(wanted, _FEWEST), _MOST)
    return statistics.median(measure() for _ in range(repeats))
