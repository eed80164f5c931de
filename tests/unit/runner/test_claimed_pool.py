"""The pool of an engine on a CPU is planned beside those of other engines."""

import gc
import json
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from engine_service import host_memory
from engine_service.config import CacheConfig, EngineConfig, ModelConfig
from engine_service.memory_claims import planning
from engine_service.models.decoder_config import DecoderConfig
from engine_service.runner.build import BuiltRunner, build_runner
from engine_service.runner.kv_cache import bytes_per_block
from folovllm.errors import ConfigError
from support.builders.tiny_models import make_checkpoint

OTHER = 2
LEFT = 2**30


@pytest.fixture
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of claims, on a host that has LEFT bytes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platform.node", lambda: "host")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=LEFT))
    monkeypatch.setattr(host_memory, "cgroup_free_memory", lambda *_: None)
    return tmp_path / "cache" / "folovllm" / "memory" / "host"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3_grouped", tmp_path_factory.mktemp("model"))


def build(checkpoint: Path, **cache: float) -> BuiltRunner:
    config = EngineConfig(
        ModelConfig(device="cpu", dtype="float32"),
        CacheConfig(**cache),  # type: ignore[arg-type]
    )
    return build_runner(config, checkpoint, show_progress=False)


def test_a_pool_is_claimed_as_long_as_its_runner_lives(claims: Path, checkpoint: Path) -> None:
    built = build(checkpoint, num_blocks=100)
    (path,) = claims.glob("*.claim")
    block = bytes_per_block(DecoderConfig.from_folder(checkpoint), 16, built.dtype)
    assert json.loads(path.read_text())["planned"] == 100 * block
    # As many as one likes in a process, as without claims.
    assert build(checkpoint, num_blocks=LEFT // block).num_blocks == LEFT // block
    del built
    gc.collect()
    assert not list(claims.glob("*.claim"))


def test_a_second_engine_takes_less_or_says_why_it_cannot(
    claims: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "engine_service.runner")
    alone = build(checkpoint, memory_utilization=0.001).num_blocks
    assert "smaller" not in caplog.text
    with planning(claims, OTHER) as plan:
        claim = plan.claim(LEFT // 2)
    assert claim is not None
    beside = build(checkpoint, memory_utilization=0.001).num_blocks
    assert abs(beside - alone / 2) < alone / 10
    assert "the KV cache is smaller: cpu has 1024 MiB free, of which another engine" in caplog.text
    with pytest.raises(ConfigError, match=r"another engine \(pid \d+.*\) has planned \d+ MiB"):
        build(checkpoint, num_blocks=LEFT)
    claim.release()
