"""Device and dtype resolution."""

import pytest
import torch

from engine_service import device as device_module
from engine_service.device import (
    cpu_computes_bfloat16,
    free_memory,
    resolve_device,
    resolve_dtype,
)
from folovllm.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """As many GPUs as the test's parameter says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_without_a_gpu(gpus: None) -> None:
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(ConfigError, match="no CUDA device; use cpu"):
        resolve_device("cuda")


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_with_two_gpus(gpus: None) -> None:
    assert resolve_device("auto") == resolve_device("cuda") == resolve_device("cuda:0") == GPU
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == CPU
    with pytest.raises(ConfigError, match="there are 2 CUDA devices"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", ""])
def test_an_unknown_device_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device must be"):
        resolve_device(name)


def test_auto_dtype_is_the_checkpoints_on_a_gpu() -> None:
    assert resolve_dtype("auto", "bfloat16", GPU) == torch.bfloat16
    assert resolve_dtype("auto", "float16", GPU) == torch.float16
    assert resolve_dtype("auto", "float32", GPU) == torch.float32


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("checkpoint", ["bfloat16", "float16"])
def test_auto_dtype_of_16_bits_on_a_cpu(
    native: bool, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "cpu_computes_bfloat16", lambda: native)
    expected = torch.bfloat16 if native else torch.float32
    assert resolve_dtype("auto", checkpoint, CPU) == expected
    assert resolve_dtype("auto", "float32", CPU) == torch.float32
    assert resolve_dtype("float16", checkpoint, CPU) == torch.float16


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ConfigError, match="dtype float8_e4m3fn is not supported"):
        resolve_dtype("auto", "float8_e4m3fn", CPU)


@pytest.mark.parametrize("bits", [(True, False), (False, True), (False, False)])
def test_native_bfloat16_needs_its_instructions(
    bits: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bits[0])
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bits[1])
    assert cpu_computes_bfloat16() == any(bits)


def test_free_memory_is_the_devices_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "free_host_memory", lambda: 12345)
    assert free_memory(CPU) == 12345
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (77, 100))
    assert free_memory(GPU) == 77
