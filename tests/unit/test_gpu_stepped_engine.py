"""The engine as the GPU benchmark steps it."""

import pytest
import torch

from benchmarks.gpu_engine import SteppedEngine, decoding
from benchmarks.gpu_plan import smoke
from folovllm.model_files import DEMO_MODEL


@pytest.fixture(scope="module")
def engine() -> SteppedEngine:
    return SteppedEngine.build(DEMO_MODEL, torch.device("cpu"), smoke())


def test_sequences_decode_together_until_they_are_ended(engine: SteppedEngine) -> None:
    names = engine.add_random(4, 24, decoding(100))
    engine.step_until_decoding(names)
    assert {output.request_id for output in engine.step()} == set(names)
    before = engine.num_tokens(names[0])

    engine.abort(names[1:])
    outputs = [output for _ in range(3) for output in engine.step()]

    assert [output.request_id for output in outputs] == names[:1] * 3
    assert engine.num_tokens(names[0]) == before + 3
    engine.abort_all()
    assert not engine.busy


def test_prompts_are_never_the_same(engine: SteppedEngine) -> None:
    for _ in range(2):
        engine.add_random(2, 32, decoding(1))
        cached = [output.usage for _ in range(2) for output in engine.step() if output.usage]
        assert [usage.cached_tokens for usage in cached] == [0, 0]
    engine.abort_all()


def test_a_runner_that_replays_is_asked(engine: SteppedEngine) -> None:
    assert engine.replay_seconds(4, 10) is None

    class Replaying:
        def replay_time(self, batch: int, steps: int) -> float:
            return batch * steps / 1000

    pipeline = engine._engine._pipeline
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_runner", Replaying())
        assert engine.replay_seconds(4, 10) == 0.04
