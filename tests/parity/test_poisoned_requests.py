"""Requests for which a real model computes NaN harm no other, beside them or in their blocks."""

from pathlib import Path

import pytest
import torch

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.request import Request
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from support.builders.cpu_kernels import library
from support.builders.gpu_engine import gpu_engine
from support.builders.poisoned_engine import (
    GREEDY,
    POISON,
    check_fork,
    check_neighbours,
    make_poisoned_checkpoint,
)
from support.builders.tiny_models import VOCAB_SIZE

WAYS = {
    "torch": ("qwen3_grouped", torch.float32, False, "none"),
    "torch speculating": ("qwen3_grouped", torch.float32, False, "ngram"),
    "deterministic": ("qwen3_grouped", torch.float32, True, "none"),
    "cpu kernels": ("qwen3_wide_heads", torch.bfloat16, True, "ngram"),
}


@pytest.mark.parametrize("way", WAYS)
def test_those_who_fail_harm_no_others(way: str, tmp_path: Path) -> None:
    name, dtype, deterministic, speculation = WAYS[way]
    if way == "cpu kernels":
        library()

    def engine(folder: Path) -> LLMEngine:
        dtype_name = str(dtype).removeprefix("torch.")
        return build_engine(
            EngineConfig(
                ModelConfig(str(folder), dtype_name, "cpu", deterministic=deterministic),
                CacheConfig(16, 24),  # with no room for all
                SchedulerConfig(6, 24, speculation=speculation),
            )
        )

    clean, poisoned = map(engine, make_poisoned_checkpoint(name, tmp_path, dtype))
    assert clean.info.kernels == ("cpu" if way == "cpu kernels" else "torch")
    check_neighbours(clean, poisoned)
    check_fork(poisoned)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_on_the_gpus_runner(tmp_path: Path) -> None:
    folders = make_poisoned_checkpoint("qwen3_one_layer", tmp_path)
    clean, poisoned = (gpu_engine(folder, 24, 6, 24) for folder in folders)
    check_neighbours(clean, poisoned)
    check_fork(poisoned)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter computes with numpy
def test_on_the_gpus_runner_one_ahead(tmp_path: Path) -> None:
    _, folder = make_poisoned_checkpoint("qwen3_one_layer", tmp_path)
    engine = gpu_engine(folder, 8, 4, 16)
    params = GREEDY.clone(max_tokens=2)
    engine.add_request(Request("healthy", [3, 4, 5], params))
    outputs = engine.step()
    engine.add_request(Request("poisoned", [6, POISON], params))
    unknown = params.clone(logit_bias=((VOCAB_SIZE, 1.0),))
    engine.add_request(Request("raises", [6, 7], unknown))
    failed: set[str] = set()
    while engine.has_unfinished_requests():
        outputs += engine.step()
        failed |= {failure.name for failure in engine.drain_failures()}
    assert failed == {"poisoned", "raises"}
    assert {output.request_id for output in outputs} == {"healthy"}
    assert sum(len(output.token_ids) for output in outputs) == 2
    assert engine.load().num_free_kv_blocks == 8
