"""Times pieces of work in turn, so that what else the machine does meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Milliseconds:
    """Medians: by the clock, and of processor time, all threads of this process together.

    Other programs on the machine lengthen the first and hardly touch the second. `walls` has every
    repeat, by the clock.
    """

    wall: float
    cpu: float
    walls: tuple[float, ...] = ()


def take_turns(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    prepare: Callable[[], object] = lambda: None,
) -> dict[str, Milliseconds]:
    """Runs A B A B …, `repeats` times each after one turn to warm up.

    `prepare` runs before each and is not timed. Work on a GPU must have come to its end, with a
    result on the host, when it returns.
    """
    walls: dict[str, list[float]] = {name: [] for name in works}
    cpus: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            prepare()
            started, started_cpu = time.perf_counter(), time.process_time()
            work()
            wall, cpu = time.perf_counter() - started, time.process_time() - started_cpu
            if turn:
                walls[name].append(wall * 1e3)
                cpus[name].append(cpu * 1e3)
    return {
        name: Milliseconds(
            statistics.median(walls[name]), statistics.median(cpus[name]), tuple(walls[name])
        )
        for name in works
    }
