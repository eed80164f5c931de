"""Our engine as benchmarks step it."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.harness.open_loop import Arrival
from benchmarks.peers.folovllm_engine import SteppedEngine, open_engine
from benchmarks.peers.peer import PeerConfig
from folovllm.model_files import DEMO_MODEL
from support.fakes.engine_factory import make_engine, make_overlapping_engine
from support.integrity import check_integrity

PROMPTS = [[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12]]


@pytest.mark.parametrize("make_fake", [make_engine, make_overlapping_engine])
def test_every_way_to_step_leaves_an_idle_engine(make_fake: Callable[[], Any]) -> None:
    """One engine waits for each step, the other is ahead of its results."""
    fake, _ = make_fake()
    engine = SteppedEngine(fake)
    assert [len(each) for each in engine.complete(PROMPTS, 5)] == [5, 5, 5]
    assert engine.generate(PROMPTS, 5).timing().total_s > 0
    (rate,) = engine.decode(PROMPTS, 8)
    assert rate > 0
    assert all(seconds >= 0 for seconds in engine.profile(PROMPTS, 4).values())
    times = engine.serve([Arrival(0.0, PROMPTS[0], 4), Arrival(0.01, PROMPTS[1], 2)])
    assert [len(each) for each in times] == [4, 2]
    assert not fake.has_unfinished_requests()
    check_integrity(fake.scheduler)


def test_a_runner_of_graphs_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, runner = make_engine()
    seconds = {(3, 8): 0.5}
    monkeypatch.setattr(
        runner, "replay_time", lambda batch, steps: seconds[batch, steps], raising=False
    )

    assert SteppedEngine(fake).decode(PROMPTS, 8)[1] == 6.0


def test_a_batch_that_the_cache_does_not_hold_is_refused() -> None:
    fake, _ = make_engine(num_blocks=8)
    with pytest.raises(ValueError, match="the KV cache holds 32 tokens, and 108 are needed"):
        SteppedEngine(fake).decode(PROMPTS, 14)


def test_an_engine_for_a_config_decodes_without_speculation() -> None:
    config = PeerConfig(str(DEMO_MODEL), max_num_seqs=2, kv_tokens=256)
    clock = open_engine(config).generate([[5] * 8], 12)
    assert clock.tokens_per_arrival == 1.0
