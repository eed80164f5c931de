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
from engine_service.models.layer_plan import Attention
from engine_service.models.model_options import ModelOptions
from support.builders.tiny_models import make_checkpoint

OPTIONS = ModelOptions(torch.float32, torch.device("cuda"))


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
    config = DecoderConfig.from_folder(make_checkpoint("qwen3_grouped", tmp_path))
    assert loader._gpu_kernels_compute(config, OPTIONS)
    for block_size in (8, 24):  # no kernels for such blocks
        assert not loader._gpu_kernels_compute(config, replace(OPTIONS, block_size=block_size))
        assert "plain torch computes: the GPU kernels take a block_size that" in caplog.text
        caplog.clear()
    monkeypatch.setattr(gpu_support, "obstacle", lambda: "nothing is installed")
    assert not loader._gpu_kernels_compute(config, OPTIONS)
    assert "plain torch computes: nothing is installed" in caplog.text


def test_each_obstacle_is_named(tmp_path: Path) -> None:
    config = DecoderConfig.from_folder(make_checkpoint("qwen3_grouped", tmp_path / "fits"))
    biased = DecoderConfig.from_folder(make_checkpoint("llama_biases", tmp_path / "biased"))
    (norm, attention), mlp = config.plan.layers[0]
    assert isinstance(attention, Attention)
    wide = replace(attention, head_dim=320)
    wide_config = replace(config, plan=replace(config.plan, layers=(((norm, wide), mlp),)))
    assert config.plan.head is not None
    head = replace(config.plan.head, bias=True)
    with_bias_of_logits = replace(config, plan=replace(config.plan, head=head))
    assert gpu_decoder.obstacle(config, OPTIONS) is None
    for model, options, named in (
        (biased, OPTIONS, "biases in an MLP"),
        (with_bias_of_logits, OPTIONS, "bias of the logits"),
        (wide_config, OPTIONS, "heads of up to 256"),
        (config, replace(OPTIONS, dtype=torch.float64), "float64"),
        (config, replace(OPTIONS, deterministic=True), "deterministic"),
        (config, replace(OPTIONS, quantization="int8"), "int8"),
    ):
        assert named in str(gpu_decoder.obstacle(model, options))
