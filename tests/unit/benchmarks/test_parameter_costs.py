"""The benchmark of parameters: what it asks for is admitted, and a long history costs no KV."""

from random import Random

import pytest

from benchmarks.micro.parameter_cases import CASES
from benchmarks.micro.short_contexts import CONTEXT, ShortContexts
from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.outputs import ModelRunnerOutput, ScheduledSequence, SchedulerOutput
from engine_service.core.request import Request
from engine_service.engine.admission import check_request
from engine_service.engine.llm_engine import LLMEngine
from folovllm.model_info import ModelInfo
from folovllm.sampling_params import SamplingParams

BLOCK_SIZE = 16
INFO = ModelInfo(
    vocab_size=151_936, max_model_len=40_960, num_kv_blocks=10_000, block_size=BLOCK_SIZE
)


class Steps:
    """A runner that computes nothing and keeps what it was given."""

    def __init__(self) -> None:
        self.parts: list[ScheduledSequence] = []
        self.longest = 0

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        self.parts += output.scheduled
        self.longest = max([self.longest, *(len(part.token_history) for part in output.scheduled)])
        return ModelRunnerOutput([[1] * len(part.sample_indexes) for part in output.scheduled])


@pytest.mark.parametrize("name", CASES)
def test_an_engine_admits_what_a_case_asks_for(name: str) -> None:
    case = CASES[name]
    params = SamplingParams().clone(**{"max_tokens": None, "ignore_eos": True, **case.params})
    token_ids = case.token_ids(Random(1))
    assert len(token_ids) == case.num_tokens
    check_request(token_ids, params, INFO)


def test_a_long_history_reaches_the_runner_without_its_kv() -> None:
    fake = Steps()
    scheduler = SchedulerConfig(max_num_seqs=2, max_num_batched_tokens=4096, speculation="none")
    engine = LLMEngine(
        ShortContexts(fake, 2, BLOCK_SIZE),
        EngineConfig(ModelConfig(), CacheConfig(BLOCK_SIZE, 10_000), scheduler),
        INFO,
    )
    long, short = list(range(20_000)), [1, 2, 3]
    for name, prompt in {"long": long, "short": short}.items():
        engine.add_request(Request(name, prompt, SamplingParams(max_tokens=5)))
    outputs = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    assert sorted(each.request_id for each in outputs if each.finish_reason) == ["long", "short"]
    parts = fake.parts
    assert fake.longest == 20_004
    assert max(part.num_tokens for part in parts) == CONTEXT + 1
    assert max(
        block for part in parts for block in part.block_table
    ) < 2 * ShortContexts.num_blocks(BLOCK_SIZE)
