"""The engine as the GPU benchmark steps it."""

import pytest
import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.engine import SteppedEngine, decoding
from benchmarks.gpu.plan import smoke
from benchmarks.gpu.sections import SECTIONS
from folovllm.model_files import DEMO_MODEL
from support.fakes.engine_factory import make_overlapping_engine
from support.integrity import check_integrity


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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._engine, "runner", Replaying())
        assert engine.replay_seconds(4, 10) == 0.04


@pytest.mark.parametrize("section", ["decode", "requests", "prefill", "first-token"])
def test_sections_step_an_engine_that_is_ahead_of_its_results(section: str) -> None:
    plan = smoke()
    fake, runner = make_overlapping_engine(
        block_size=plan.block_size,
        num_blocks=plan.num_blocks or 0,
        max_num_seqs=plan.max_num_seqs,
        max_num_batched_tokens=plan.max_num_batched_tokens,
        max_model_len=plan.max_model_len,
    )
    bench = Bench(DEMO_MODEL, torch.device("cpu"), plan)
    bench._engine = SteppedEngine(fake)

    lines = [line for case in SECTIONS[section].cases(bench) for line in case.lines()]

    assert all(line.seconds for line in lines)
    first_result = runner.events.index(("result", 0))
    assert first_result > 1 or section == "prefill"  # a prompt alone leaves nothing to plan
    bench.engine.abort_all()
    check_integrity(fake.scheduler)
