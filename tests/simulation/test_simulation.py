"""The services under simulated faults: a few hundred small scenarios, and the simulation itself."""

import pytest

from simulation.mutants import MUTANTS, hunted
from simulation.runs import run_seeds
from simulation.scenario import Shape, scenario_of
from simulation.shrink import shrunk
from simulation.world import World


def test_streams_are_their_undisturbed_runs_whatever_goes_wrong() -> None:
    total = run_seeds(range(1, 81), Shape(12))
    assert total.complaints == []
    assert total.num_tokens > 5 * total.num_requests
    assert total.counts["fault: kill"] > 10


@pytest.mark.parametrize("seed", [3, 12])
def test_a_seed_repeats_exactly(seed: int) -> None:
    scenario = scenario_of(seed, Shape(40))
    first, second = World(scenario).run(), World(scenario).run()
    assert first.trace.value == second.trace.value
    assert first.num_tokens == second.num_tokens > 0


def test_a_planted_error_is_found_and_shrunk() -> None:
    plant = MUTANTS["a cancelled stream is not released"]
    _, complaint = hunted(plant, Shape(30))
    assert complaint
    with plant():
        seed = int(complaint.split(":")[0].removeprefix("seed "))
        smaller = shrunk(scenario_of(seed, Shape(30)), max_runs=60)
        assert World(smaller).run().complaints
    assert len(smaller.requests) < 10
