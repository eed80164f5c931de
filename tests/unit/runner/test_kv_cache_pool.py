"""How many blocks the pool gets, and what an untouched pool costs."""

import psutil
import pytest
import torch

from engine_service.config import CacheConfig, EngineConfig, SchedulerConfig
from engine_service.host_memory import FreeMemory
from engine_service.memory_claims import Claim
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.model_options import ModelOptions
from engine_service.models.torch_decoder import TorchDecoder
from engine_service.runner.kv_cache import (
    allocate_kv_caches,
    bytes_per_block,
    copy_blocks,
    num_blocks_that_fit,
)
from folovllm.errors import ConfigError
from support.builders.tiny_models import make_checkpoint

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MIB = 2**20
NO_PID = 2**31 - 1
"""Of no process."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DecoderConfig:
    """2 layers of 2 key heads of 16."""
    folder = tmp_path_factory.mktemp("model")
    return DecoderConfig.from_folder(make_checkpoint("qwen3_grouped", folder))


def fit(
    cache: CacheConfig,
    free: int,
    *,
    device: torch.device = CPU,
    max_num_seqs: int = 1000,
    max_model_len: int = 160,
    claimed: int = 0,
) -> int:
    """Blocks that fit where one block takes 1 MiB and holds 16 tokens."""
    step = SchedulerConfig(max_num_seqs, max_num_batched_tokens=max_num_seqs)
    return num_blocks_that_fit(
        EngineConfig(cache=cache, scheduler=step),
        ModelOptions(torch.bfloat16, device, block_size=16),
        max_model_len=max_model_len,
        block_bytes=MIB,
        free=FreeMemory(free, claimed, (Claim(NO_PID, claimed),)),
    )


def test_bytes_per_block(config: DecoderConfig) -> None:
    assert bytes_per_block(config, 16, torch.float32) == 2 * 2 * 2 * 16 * 16 * 4
    assert bytes_per_block(config, 16, torch.bfloat16) == 2 * 2 * 2 * 16 * 16 * 2


def test_the_pool_is_a_share_of_the_free_memory() -> None:
    assert fit(CacheConfig(), 100 * MIB) == 50
    assert fit(CacheConfig(), 100 * MIB, device=GPU) == 90
    assert fit(CacheConfig(memory_utilization=0.25), 100 * MIB) == 25


def test_the_pool_is_never_more_than_all_sequences_can_use() -> None:
    assert fit(CacheConfig(), 1000 * MIB, max_num_seqs=4) == 40
    assert fit(CacheConfig(), 1000 * MIB, max_num_seqs=4, max_model_len=161) == 44


def test_one_sequence_must_fit() -> None:
    assert fit(CacheConfig(), 20 * MIB) == 10
    with pytest.raises(ConfigError) as caught:
        fit(CacheConfig(), 19 * MIB)
    assert str(caught.value) == (
        "a sequence of max_model_len 160 needs 10 MiB of KV cache; cpu has 19 MiB free; 50% of "
        "that hold 144 tokens: lower max_model_len to that, or free memory"
    )


def test_a_configured_number_of_blocks_is_taken_as_it_is() -> None:
    assert fit(CacheConfig(num_blocks=3), 100 * MIB) == 3
    assert fit(CacheConfig(num_blocks=100), 100 * MIB) == 100
    with pytest.raises(ConfigError, match="num_blocks 101 needs 101 MiB .* to at most 100"):
        fit(CacheConfig(num_blocks=101), 100 * MIB)


def test_what_another_engine_has_planned_is_not_planned_again() -> None:
    assert fit(CacheConfig(), 100 * MIB, claimed=40 * MIB) == 30
    assert fit(CacheConfig(num_blocks=60), 100 * MIB, claimed=40 * MIB) == 60
    with pytest.raises(ConfigError) as caught:
        fit(CacheConfig(num_blocks=61), 100 * MIB, claimed=40 * MIB)
    assert str(caught.value) == (
        "num_blocks 61 needs 61 MiB of KV cache; cpu has 100 MiB free, of which another engine "
        "(pid 2147483647) has planned 40 MiB: lower num_blocks to at most 60, or that engine's "
        "--memory-utilization"
    )
    with pytest.raises(ConfigError) as caught:
        fit(CacheConfig(), 100 * MIB, claimed=81 * MIB)
    assert str(caught.value) == (
        "a sequence of max_model_len 160 needs 10 MiB of KV cache; cpu has 100 MiB free, of which "
        "another engine (pid 2147483647) has planned 81 MiB; 50% of the rest hold 144 tokens: "
        "lower max_model_len to that, or that engine's --memory-utilization"
    )


def test_an_untouched_pool_takes_no_memory(config: DecoderConfig) -> None:
    model = TorchDecoder(config, ModelOptions(torch.float32, CPU))
    process = psutil.Process()
    before = process.memory_info().rss
    num_blocks = 1024 * MIB // bytes_per_block(config, 16, torch.float32)
    caches = allocate_kv_caches(model, num_blocks, 16)
    assert process.memory_info().rss - before < 64 * MIB
    assert len(caches) == 2 and caches[0].key.shape == (num_blocks, 2, 16, 16)


def test_block_copies_are_made_in_order_and_in_all_layers(config: DecoderConfig) -> None:
    model = TorchDecoder(config, ModelOptions(torch.float32, CPU))
    caches = allocate_kv_caches(model, 4, 16)
    for layer, cache in enumerate(caches):
        for block in range(4):
            cache.key[block], cache.value[block] = 10.0 * layer + block, -10.0 * layer - block
    copy_blocks(caches, ((1, 2), (2, 3)))
    for layer, cache in enumerate(caches):
        assert cache.key[:, 0, 0, 0].tolist() == [10 * layer + block for block in (0, 1, 1, 1)]
        assert cache.value[:, 1, 3, 5].tolist() == [-10 * layer - block for block in (0, 1, 1, 1)]
