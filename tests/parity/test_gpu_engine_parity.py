"""With the GPU's runner an engine gives the tokens and log-probabilities that the CPU's gives."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from gpu_engine import BLOCK_SIZE, gpu_engine
from tiny_models import VOCAB_SIZE, make_checkpoint

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.request import Request
from engine_service.engine_factory import build_engine
from engine_service.llm_engine import LLMEngine
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams

SHORT = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
RANDOM = SHORT.clone(temperature=0.9, seed=3)
REQUESTS: Mapping[str, tuple[int, SamplingParams]] = {
    "greedy": (5, SHORT),
    "greedy, in chunks": (60, SHORT.clone(max_tokens=4)),
    "random": (9, RANDOM),
    "filtered": (17, RANDOM.clone(top_k=20, top_p=0.9, min_p=0.02)),
    "several": (6, RANDOM.clone(n=3, max_tokens=3)),
    "logprobs": (7, RANDOM.clone(logprobs=3, prompt_logprobs=2, max_tokens=3)),
    "penalties": (8, SHORT.clone(repetition_penalty=1.3, frequency_penalty=0.5)),
    "few": (4, RANDOM.clone(allowed_token_ids=(30, 31, 32, 33))),
    "bad words": (4, SHORT.clone(allowed_token_ids=(30, 31, 32), bad_words_token_ids=((30, 31),))),
    "min_tokens": (3, SHORT.clone(ignore_eos=False, min_tokens=4, stop_token_ids=(31, 33))),
}


def answers(engine: LLMEngine) -> dict[str, RequestOutput]:
    """All requests, one more every two steps."""
    generator = torch.Generator().manual_seed(0)
    waiting = [
        Request(name, torch.randint(2, VOCAB_SIZE, (length,), generator=generator).tolist(), params)
        for name, (length, params) in REQUESTS.items()
    ]
    results = {request.request_id: RequestOutput() for request in waiting}
    num_steps = 0
    while waiting or engine.has_unfinished_requests():
        if waiting and num_steps % 2 == 0:
            engine.add_request(waiting.pop(0))
        for output in engine.step():
            results[output.request_id].add(output)
        num_steps += 1
    engine.scheduler.check_integrity()
    return results


def cpu_engine(folder: Path) -> LLMEngine:
    return build_engine(
        EngineConfig(
            ModelConfig(str(folder), dtype="float32", device="cpu"),
            CacheConfig(BLOCK_SIZE, 100),
            SchedulerConfig(8, 48, speculation="none"),
        )
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("num_blocks", [100, 6], ids=["enough blocks", "preempted"])
def test_same_answers(num_blocks: int, tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_grouped", tmp_path, seed=1)
    expected, found = answers(cpu_engine(folder)), answers(gpu_engine(folder, num_blocks))
    for name, result in found.items():
        for output, wanted in zip(result.outputs, expected[name].outputs, strict=True):
            assert output.token_ids == wanted.token_ids, name
            assert output.finish_reason == wanted.finish_reason, name
            for position, other in zip(output.logprobs, wanted.logprobs, strict=True):
                assert position.token.logprob == pytest.approx(other.token.logprob, abs=1e-3)
