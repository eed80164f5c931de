"""`python -m simulation`: simulates many seeds; replays and shrinks those that fail.

python -m simulation --seeds 100          as many seeds, from --first on
python -m simulation --requests 100000    as many requests
python -m simulation --replay 17          one seed, with all that happens in it
python -m simulation mutants              plants errors and says after how many requests
                                          each was found
"""

import argparse
import sys

from simulation.mutants import hunt
from simulation.runs import run_seeds
from simulation.scenario import Scenario, Shape, scenario_of
from simulation.shrink import shrunk
from simulation.world import World


def main() -> int:
    """Returns the exit status: 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("what", nargs="?", default="run", choices=("run", "mutants"))
    parser.add_argument("--first", type=int, default=1, help="the first seed (default: 1)")
    parser.add_argument("--seeds", type=int, help="how many (default: 100)")
    parser.add_argument("--requests", type=int, help="run seeds until there were so many")
    parser.add_argument("--size", type=int, default=120, help="requests of a seed")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one seed, and tell of it")
    parser.add_argument("--no-shrink", action="store_true", help="show failing seeds as they are")
    options = parser.parse_args()
    shape = Shape(options.size)
    if options.what == "mutants":
        return hunt(shape, options.first)
    if options.replay is not None:
        return _replay(scenario_of(options.replay, shape), not options.no_shrink)
    num_seeds = options.seeds or (100 if options.requests is None else 10**9)
    seeds = range(options.first, options.first + num_seeds)
    total = run_seeds(seeds, shape, options.requests or float("inf"))
    for line in (*total.complaints[:20], *total.lines()):
        print(line)
    if total.failed:
        print(f"python -m simulation --size {options.size} --replay {total.failed[0].seed}")
    return int(bool(total.failed))


def _replay(scenario: Scenario, shrinks: bool) -> int:
    """Runs a scenario twice, and then a smaller one that shows the same, with all its events."""
    first, second = World(scenario).run(), World(scenario, keep_trace=True).run()
    if first.trace.value != second.trace.value:
        print("two runs differ: the simulation is not deterministic")
        return 1
    if shrinks and first.complaints:
        scenario = shrunk(scenario)
        second = World(scenario, keep_trace=True).run()
    for part in (*scenario.engines, *scenario.faults):
        print(part)
    if len(scenario.requests) <= 20:
        for request in scenario.requests:
            print(request)
    for line in (*second.trace.lines, *second.complaints):
        print(line)
    return int(bool(second.complaints))


if __name__ == "__main__":
    sys.exit(main())
