import json
import statistics

import pytest

from benchmarks.harness.open_loop import (
    Arrival,
    Load,
    from_json,
    latencies_ms,
    quantile,
    tokens_per_s,
)

LOAD = Load(rate=10.0, num_requests=2000, prompt_tokens=(3, 5), new_tokens=(1, 4))


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    times = [arrival.time_s for arrival in LOAD.arrivals(turn=0, vocab_size=100)]
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]

    assert times[0] == 0.0
    # Of exponential gaps mean and deviation are equal; 2000 of them give either to about 2 %.
    assert statistics.mean(gaps) == pytest.approx(0.1, rel=0.1)
    assert statistics.stdev(gaps) == pytest.approx(0.1, rel=0.1)


def test_arrivals_stay_within_the_ranges_and_the_vocabulary() -> None:
    arrivals = LOAD.arrivals(turn=0, vocab_size=7)

    assert {len(arrival.prompt_token_ids) for arrival in arrivals} == {3, 4, 5}
    assert {arrival.new_tokens for arrival in arrivals} == {1, 2, 3, 4}
    assert {i for arrival in arrivals for i in arrival.prompt_token_ids} == set(range(7))


def test_a_turn_can_be_repeated_and_has_prompts_of_its_own() -> None:
    assert LOAD.arrivals(1, 100) == LOAD.arrivals(1, 100)
    assert LOAD.arrivals(1, 100) != LOAD.arrivals(2, 100)


def test_an_arrival_survives_json() -> None:
    arrivals = [Arrival(0.5, [1, 2], 3)]

    assert from_json(json.loads(json.dumps(arrivals))) == arrivals


def test_latencies_count_from_the_time_of_arrival() -> None:
    arrivals = [Arrival(0.0, [1], 3), Arrival(1.0, [1], 2)]
    times = [[0.5, 0.6, 0.9], [2.0, 2.5]]

    assert latencies_ms(arrivals, times) == {
        "first token p50": pytest.approx(1000),
        "first token p99": pytest.approx(1000),
        "inter-token p50": pytest.approx(300),
        "inter-token p99": pytest.approx(500),
    }
    assert tokens_per_s(times) == pytest.approx(2.0)


def test_quantiles() -> None:
    assert quantile(range(100), 0.5) == 50
    assert quantile(range(100), 0.99) == 99
    assert quantile([], 0.5) == 0.0
