"""Without what the GPU kernels need, plain torch computes, and it is said why."""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine_service.kernels.gpu import support as gpu_support
from engine_service.models import gpu_decoder, loader
from engine_service.models.decoder_config import DecoderConfig
from support.builders.tiny_models import make_checkpoint


def test_nothing_is_missing_with_triton_and_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "clang" else None)
    assert gpu_support.obstacle() is None


def test_a_compiler_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/opt/cc")
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "/opt/cc" else None)
    assert gpu_support.obstacle() is None


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "install gcc or clang" in str(gpu_support.obstacle())
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "Triton is not installed" in str(gpu_support.obstacle())


def test_plain_torch_computes_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_checkpoint("qwen3_grouped", tmp_path)
    config, cpu = DecoderConfig.from_folder(folder), torch.device("cpu")
    decoder = loader.load_decoder(folder, config, torch.float32, cpu, False, deterministic=True)
    assert loader._with_gpu_kernels(decoder, 16, 100).kernels == "gpu"
    for block_size in (8, 24):  # no kernels for such blocks
        assert loader._with_gpu_kernels(decoder, block_size, 100) is decoder
        assert f"block_size is {block_size}" in caplog.text
    monkeypatch.setattr(gpu_support, "obstacle", lambda: "none of it is there")
    assert loader._with_gpu_kernels(decoder, 16, 100) is decoder
    assert "none of it is there" in caplog.text


def test_biases_and_wide_heads_have_no_kernels(tmp_path: Path) -> None:
    config = DecoderConfig.from_folder(make_checkpoint("qwen3_grouped", tmp_path))
    assert gpu_decoder.obstacle(config, torch.float32, 16) is None
    assert "biases" in str(gpu_decoder.obstacle(replace(config, mlp_bias=True), torch.float32, 16))
    assert "320" in str(gpu_decoder.obstacle(replace(config, head_dim=320), torch.float32, 16))
    assert "float64" in str(gpu_decoder.obstacle(config, torch.float64, 16))
