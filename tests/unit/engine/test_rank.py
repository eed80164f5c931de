"""Which rank a process is, and on what it computes."""

import pytest
import torch

from engine_service.config import CacheConfig, EngineConfig, ModelConfig
from engine_service.device import device_of_rank
from engine_service.distributed.rank import Rank
from engine_service.layers.parallel import TensorParallel
from engine_service.runner.build import build_runner
from folovllm.errors import ConfigError
from folovllm.model_files import DEMO_MODEL


def test_the_environment_says_which_rank_this_is() -> None:
    assert Rank.from_environment({}) == Rank(0, 1, 0)
    environment = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_PORT": "1"}
    assert Rank.from_environment(environment) == Rank(3, 8, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": ""}, "RANK must be a number where WORLD_SIZE is set, got ''"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a number"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK must be a number .*; start with torchrun"),
        ({"RANK": "2"}, "RANK is 2, but WORLD_SIZE only 2"),
    ],
)
def test_a_broken_environment_is_refused(changes: dict[str, str], message: str) -> None:
    environment = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"} | changes
    with pytest.raises(ConfigError, match=message):
        Rank.from_environment(environment)


@pytest.mark.parametrize("gpus", [0, 2])
def test_each_rank_has_a_gpu_of_its_own(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert device_of_rank("cpu", 5) == "cpu"
    if gpus == 0:
        assert device_of_rank("auto", 1) == "cpu"
        return
    assert device_of_rank("auto", 0) == "cuda:0"
    assert device_of_rank("cuda", 1) == "cuda:1"
    with pytest.raises(ConfigError, match="cuda:1 is one GPU, but each rank has its own; use cuda"):
        device_of_rank("cuda:1", 0)
    with pytest.raises(ConfigError, match="rank 2 of this machine has no GPU, there are 2; start"):
        device_of_rank("auto", 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelConfig(device="cpu", deterministic=True), "deterministic is for one rank"),
        (ModelConfig(device="cpu", quantization="int8"), "quantization int8 is for one rank"),
    ],
)
def test_what_several_ranks_do_not_share(model: ModelConfig, message: str) -> None:
    config = EngineConfig(model, CacheConfig(num_blocks=8))
    with pytest.raises(ConfigError, match=message):
        build_runner(config, DEMO_MODEL, False, TensorParallel(0, 2))
