"""The library of the CPU kernels: what happens where it cannot be had, and who says so."""

import logging
from pathlib import Path

import pytest

from engine_service.config import CacheConfig, EngineConfig, ModelConfig
from engine_service.engine.factory import build_engine
from engine_service.kernels.cpu import build as cpu_build
from engine_service.kernels.cpu import library as cpu_library


def find_anew() -> Path | None:
    """What the first look finds; nothing is kept for others."""
    return cpu_library.find_or_build.__wrapped__()


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Where a library may be and none is yet, on a processor that could use it."""
    monkeypatch.setattr(cpu_library, "missing_instructions", lambda: ())
    found = tmp_path / "sources" / "kernels.so", tmp_path / "cache" / "kernels.so"
    monkeypatch.setattr(cpu_build, "_library_paths", lambda: found)
    return found


def test_without_a_compiler_a_warning_says_what_to_install(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert find_anew() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "install g++" in record.getMessage()


def test_the_cache_folder_takes_what_cannot_lie_beside_the_sources(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nfor target; do :; done\necho compiled > "$target"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    paths[0].parent.touch()  # no folder, so that nothing can be written there
    assert cpu_build.build_library() == paths[1] == cpu_build.find_library()
    assert paths[1].read_text() == "compiled\n"


def test_a_library_that_cannot_be_loaded_is_no_reason_to_fail(
    paths: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    paths[1].parent.mkdir()
    paths[1].write_bytes(b"not a library")
    assert find_anew() is None
    assert str(paths[1]) in caplog.text


def test_other_processors_are_told_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu_library, "missing_instructions", lambda: ("avx512_vnni",))
    assert find_anew() is None
    assert not caplog.records


def test_the_command_explains_a_failure_in_a_line(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert cpu_build.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("plain torch will compute") and "install g++" in line


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_engine_says_whose_kernels_compute(dtype: str) -> None:
    config = EngineConfig(ModelConfig(dtype=dtype, device="cpu"), CacheConfig(num_blocks=64))
    own = dtype == "bfloat16" and cpu_library.find_or_build() is not None
    assert build_engine(config).info.kernels == ("cpu" if own else "torch")
