"""The services under simulated faults: a few hundred small scenarios, and the simulation itself."""

from simulation.mutants import MUTANTS, hunted
from simulation.runs import run_seeds
from simulation.scenario import Shape, scenario_of
from simulation.shrink import shrunk
from simulation.world import World


def test_streams_are_their_undisturbed_runs_whatever_goes_wrong() -> None:
    total = run_seeds(range(1, 101), Shape.small())
    assert total.complaints == []
    assert total.num_tokens > 10 * total.num_requests > 5_000
    assert total.counts["fault: kill"] > 30 < total.counts["moved while decoding"]


def test_a_seed_repeats_exactly() -> None:
    scenario = scenario_of(4, Shape(24))
    first, second = World(scenario).run(), World(scenario).run()
    assert first.trace.value == second.trace.value
    assert first.num_tokens == second.num_tokens > 100


def test_a_planted_error_is_found_and_shrunk() -> None:
    plant = MUTANTS["a seed is drawn twice"]
    _, complaint = hunted(plant, Shape.small())
    found = scenario_of(int(complaint.split(":")[0].removeprefix("seed ")), Shape.small())
    with plant():
        smaller = shrunk(found, max_runs=30)
        assert World(smaller).run().complaints
    assert len(smaller.requests) < len(found.requests)
    assert World(smaller).run().complaints == []
