"""The GPU benchmark: what it measures, and how it goes on when a case fails, hangs or breaks."""

import time
from collections.abc import Callable
from typing import cast

import pytest

from benchmarks.gpu.comparison import Job, run_jobs
from benchmarks.gpu.plan import GpuPlan, full, smoke
from benchmarks.gpu.requests import requests
from benchmarks.harness.model_shape import ModelShape
from benchmarks.peers.contender import Contender, ContenderError
from benchmarks.results.measurement import Measurement
from benchmarks.results.recorder import Recorder

SHAPE = ModelShape(
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
)


def test_bytes_of_steps() -> None:
    assert SHAPE.decode_bytes([1024] * 256) == pytest.approx(31.3e9, rel=0.01)
    # Step by step: the first new token comes with the prompt, the next one reads it and 10 more.
    weights, kv = SHAPE.weight_bytes(), SHAPE.kv_bytes
    assert SHAPE.generation_bytes([(10, 3), (7, 1)]) == 3 * weights + (11 + 12) * kv


def test_requests_are_those_of_nano_vllm() -> None:
    found = requests(256)
    assert sum(each.new_tokens for each in found) == 133_966
    assert sum(len(each.prompt_token_ids) for each in found) == 142_827
    assert max(max(each.prompt_token_ids) for each in found) == 10_000
    lengths = [(len(each.prompt_token_ids), each.new_tokens) for each in found]
    # 3.7 s at 4.1 TB/s.
    assert SHAPE.generation_bytes(lengths) == pytest.approx(15.1e12, rel=0.02)


@pytest.mark.parametrize("plan", [full(), smoke()])
def test_a_plan_fits_the_engine(plan: GpuPlan) -> None:
    cases = [*plan.cases, *plan.profiled, plan.streams]
    assert max(case.batch for case in cases) <= plan.max_num_seqs
    for case in cases:
        # Those whose prompts are done decode while the others' are computed.
        prefill = case.num_prompt_tokens // 8192 + 2
        assert case.prompt_tokens + 2 * case.new_tokens + prefill <= plan.max_model_len
    assert 2 * plan.request_tokens[1] <= plan.max_model_len
    assert {case for cases in plan.peer_cases.values() for case in cases} <= set(plan.cases)


class FakeContender:
    """Fails and hangs as told, and is closed then."""

    def __init__(self, log: list[str]) -> None:
        self._log, self.timeout = log, 0.0
        log.append("opened")

    def close(self, patience: float = 30.0) -> None:
        self._log.append("killed" if patience == 0 else "closed")


def work(value: float | None) -> Callable[[Contender], list[Measurement]]:
    """Measures a value, or fails."""

    def measure(contender: Contender) -> list[Measurement]:
        assert contender.timeout
        if value is None:
            raise ContenderError("folovllm ended; it last wrote:\nTraceback\nValueError: no kernel")
        return [Measurement("case", "folovllm", "ms", (value,))]

    return measure


def run(jobs: list[Job], seconds: float, opened: bool = True) -> tuple[list[str], list[str]]:
    """What became of the processes, and what was recorded."""
    log, recorder = list[str](), Recorder("gpu", "demo", None)

    def open_contender(timeout: float) -> Contender:
        if not opened:
            raise ContenderError("folovllm gave no answer for 180 s")
        return cast(Contender, FakeContender(log))

    run_jobs("folovllm", open_contender, jobs, time.monotonic() + seconds, recorder)
    measurements = recorder.results.measurements
    return log, [each.note or str(each.values[0]) for each in measurements]


def test_a_process_that_failed_is_replaced_for_the_next_case() -> None:
    jobs = [Job("a", work(1.0)), Job("b", work(None)), Job("c", work(3.0)), Job("d", work(4.0))]
    assert run(jobs, seconds=60) == (
        ["opened", "killed", "opened", "closed"],
        ["1.0", "ValueError: no kernel", "3.0", "4.0"],
    )


def test_an_engine_that_cannot_be_opened_is_not_tried_again() -> None:
    jobs = [Job("a", work(1.0)), Job("b", work(2.0))]
    assert run(jobs, seconds=60, opened=False) == ([], ["folovllm gave no answer for 180 s"])


def test_nothing_begins_when_the_time_is_over() -> None:
    reason = "left out: the run's time is over"
    assert run([Job("a", work(1.0)), Job("b", work(2.0))], 0.0) == ([], [reason, reason])
