"""On a GPU the engine gives the CPU's tokens; nothing of the plain path is special to a device."""

from pathlib import Path

import pytest
import torch
from tiny_models import TINY_MODELS, VOCAB_SIZE, make_checkpoint

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.request import Request
from engine_service.engine_factory import build_engine
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def answers(folder: Path, device: str, num_blocks: int) -> list[list[list[int]]]:
    """16 requests at once, greedy ones and seeded ones, n = 1 and 2."""
    engine = build_engine(
        EngineConfig(
            ModelConfig(str(folder), dtype="float32", device=device),
            CacheConfig(num_blocks=num_blocks),
            SchedulerConfig(max_num_seqs=16, max_num_batched_tokens=48),
        )
    )
    generator = torch.Generator().manual_seed(0)
    results = {}
    for number in range(16):
        prompt = torch.randint(2, VOCAB_SIZE, (5 + 7 * number,), generator=generator).tolist()
        params = SamplingParams(
            n=1 + number % 2,
            temperature=0.0 if number % 4 else 0.7,
            top_k=20,
            seed=number,
            max_tokens=32,
            ignore_eos=True,
        )
        results[str(number)] = RequestOutput()
        engine.add_request(Request(str(number), prompt, params))
    while engine.has_unfinished_requests():
        for output in engine.step():
            results[output.request_id].add(output)
    engine.scheduler.check_integrity()
    return [[output.token_ids for output in result.outputs] for result in results.values()]


@pytest.mark.parametrize("name", TINY_MODELS)
def test_cuda_equals_cpu(name: str, tmp_path: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    folder = make_checkpoint(name, tmp_path, seed=1)
    expected = answers(folder, "cpu", num_blocks=200)
    assert answers(folder, "cuda", num_blocks=200) == expected
    assert answers(folder, "cuda", num_blocks=24) == expected  # with preemptions
