"""Triton's compiled kernels come from a folder that others cannot write."""

from pathlib import Path

import pytest
import triton

from engine_service.kernels.gpu.compiled_cache import use_trusted_cache


@pytest.mark.parametrize(("mode", "trusted"), [(None, True), (0o755, True), (0o777, False)])
def test_a_folder_for_all_is_not_used(
    mode: int | None, trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, own = tmp_path / "compiled", tmp_path / "cache" / "folovllm" / "triton"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(triton.knobs.cache, "dir", str(folder))
    if mode is not None:
        folder.mkdir()
        folder.chmod(mode)
    use_trusted_cache()
    assert triton.knobs.cache.dir == str(folder if trusted else own)
    assert own.exists() is not trusted and folder.exists()
