"""Device and dtype resolution, and free memory under control group limits."""

from pathlib import Path

import psutil
import pytest
import torch

from engine_service import device as device_module
from engine_service.device import (
    cgroup_free_memory,
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


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_version_2_limit_without_the_page_cache(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/pod/container\n")
    root = tmp_path / "cgroup"
    write(root / "pod", memory__max="max", memory__current="900")
    stat = "anon 300\ninactive_file 150\nactive_file 50\n"
    write(root / "pod/container", memory__max="1000", memory__current="600", memory__stat=stat)
    assert cgroup_free_memory(root, own) == 1000 - (600 - 200)


def test_version_2_takes_the_nearest_limit_of_the_parents(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/pod/container\n")
    write(tmp_path / "pod", memory__max="500", memory__current="450")
    write(tmp_path / "pod/container", memory__max="1000", memory__current="300")
    assert cgroup_free_memory(tmp_path, own) == 50


def test_version_2_inside_a_container_sees_only_its_root(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/\n")
    write(tmp_path, memory__max="100", memory__current="130")
    assert cgroup_free_memory(tmp_path, own) == 0


def test_version_1_limit(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("5:cpu,cpuacct:/a\n4:memory:/docker/abc\n")
    write(
        tmp_path / "memory/docker/abc",
        memory__limit_in_bytes="1000",
        memory__usage_in_bytes="700",
        memory__stat="total_inactive_file 100\ntotal_active_file 0\n",
    )
    assert cgroup_free_memory(tmp_path, own) == 400


def test_no_limit(tmp_path: Path) -> None:
    assert cgroup_free_memory(tmp_path, tmp_path / "missing") is None


def test_free_memory_is_the_lower_of_machine_and_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "cgroup_free_memory", lambda *_: None)
    assert 0 < free_memory(CPU) <= psutil.virtual_memory().total
    monkeypatch.setattr(device_module, "cgroup_free_memory", lambda *_: 12345)
    assert free_memory(CPU) == 12345
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (77, 100))
    assert free_memory(GPU) == 77
