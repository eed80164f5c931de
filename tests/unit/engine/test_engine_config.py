"""What an engine is started with by default, by its device, and what it cannot be."""

from pathlib import Path
from typing import Any

import pytest

from engine_service.config import (
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
    parse_args,
)
from engine_service.engine.factory import build_engine
from folovllm.errors import ConfigError
from support.builders.tiny_models import make_checkpoint


def test_blocks_are_larger_on_a_gpu() -> None:
    default, own = CacheConfig(), CacheConfig(block_size=32)
    assert [default.block_size_on(kind) for kind in ("cpu", "cuda")] == [16, 64]
    assert [own.block_size_on(kind) for kind in ("cpu", "cuda")] == [32, 32]


def test_options_of_the_cache() -> None:
    cache = parse_args(["--kv-cache-dtype", "fp8", "--block-size", "128"]).engine.cache
    assert (cache.dtype, cache.block_size) == ("fp8", 128)
    default = parse_args([]).engine.cache
    assert default == CacheConfig() and (default.dtype, default.block_size) == ("auto", None)
    for name in ("--memory-utilization", "--gpu-memory-utilization"):
        assert parse_args([name, "0.5"]).engine.cache.memory_utilization == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "fp4"}, "kv_cache_dtype must be one of auto, fp8"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"memory_utilization": 1.5}, r"memory_utilization must be in \(0, 1\]"),
    ],
)
def test_what_a_cache_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CacheConfig(**changes)


def test_a_cache_of_8_bits_needs_a_gpu(tmp_path: Path) -> None:
    model = ModelConfig(str(make_checkpoint("qwen3_grouped", tmp_path)), device="cpu")
    with pytest.raises(ConfigError, match=r"kv_cache_dtype fp8 needs the kernels for GPUs.*cpu"):
        build_engine(EngineConfig(model, CacheConfig(dtype="fp8")))


def test_an_engine_says_what_it_was_built_with(tmp_path: Path) -> None:
    model = ModelConfig(str(make_checkpoint("qwen3_grouped", tmp_path)), device="cpu")
    engine = build_engine(EngineConfig(model, CacheConfig(num_blocks=9)))
    assert (engine.info.block_size, engine.info.num_kv_blocks) == (16, 9)


def test_steps_are_larger_on_a_gpu() -> None:
    default = SchedulerConfig()
    assert default.step_size_on("cpu") == (64, 2048)
    assert default.step_size_on("cuda") == (256, 8192)
    assert parse_args([]).engine.scheduler == default
    given = parse_args(["--max-num-seqs", "9", "--max-num-batched-tokens", "70"]).engine.scheduler
    assert [given.step_size_on(kind) for kind in ("cpu", "cuda")] == [(9, 70)] * 2


def test_one_number_of_a_step_makes_room_for_the_other() -> None:
    assert SchedulerConfig(max_num_batched_tokens=40).step_size_on("cpu") == (40, 40)
    assert SchedulerConfig(max_num_seqs=3000).step_size_on("cpu") == (3000, 3000)
    with pytest.raises(
        ConfigError, match=r"max_num_batched_tokens \(8\) must be at least max_num_"
    ):
        SchedulerConfig(max_num_seqs=9, max_num_batched_tokens=8)
