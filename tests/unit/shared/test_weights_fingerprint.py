"""What identifies a model's weights, and when it is made again."""

import os
from pathlib import Path

import pytest

from folovllm.errors import ConfigError
from folovllm.model_files import replica_fingerprint, weights_fingerprint
from folovllm.model_files.weights_fingerprint import WeightsFingerprint

SIZE = 3_000_000


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_fingerprint, "_PIECE_BYTES", 1_500_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(SIZE))
    return folder


def fingerprint(folder: Path) -> str:
    with WeightsFingerprint(folder, folder.parent / "cache") as made:
        return made.result()


def test_every_byte_counts(folder: Path) -> None:
    path, seen = folder / "model.safetensors", {fingerprint(folder)}
    for place in (0, 1_499_999, 1_500_000, 2_000_001, SIZE - 1):
        weights = bytearray(SIZE)
        weights[place] = 1
        path.write_bytes(weights)
        seen.add(fingerprint(folder))
    path.write_bytes(bytes(SIZE + 1))
    seen.add(fingerprint(folder))
    assert len(seen) == 7
    path.write_bytes(bytes(SIZE))
    assert fingerprint(folder) in seen


def test_shards_count_in_order(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "b", "y": "a"}}')
    seen = set()
    for first, second in ((b"1", b"2"), (b"2", b"1")):
        (folder / "a").write_bytes(first)
        (folder / "b").write_bytes(second)
        seen.add(fingerprint(folder))
    assert len(seen) == 2


def test_an_unchanged_file_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, known = folder / "model.safetensors", fingerprint(folder)
    with monkeypatch.context() as patch:
        patch.setattr(weights_fingerprint, "_hash_piece", lambda *_: pytest.fail("read again"))
        assert fingerprint(folder) == known
    # The same size and time tell nothing.
    status = path.stat()
    path.write_bytes(b"x" * SIZE)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint(folder) != known


@pytest.mark.parametrize("entry", ["{", "[]", '{"state": 1}', None])
def test_a_cache_that_is_of_no_use_does_no_harm(folder: Path, entry: str | None) -> None:
    known = fingerprint(folder)
    (path,) = (folder.parent / "cache").iterdir()
    if entry is None:  # others may have written it
        path.write_text(path.read_text().replace(known[:8], "0" * 8))
        path.chmod(0o666)
    else:
        path.write_text(entry)
    assert fingerprint(folder) == known
    path.unlink()
    path.mkdir()
    assert fingerprint(folder) == known


def test_a_file_that_is_missing_is_named(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "gone"}}')
    with WeightsFingerprint(folder) as made, pytest.raises(ConfigError, match="gone cannot be re"):
        made.result()


def test_replicas_have_the_same_files_and_settings(folder: Path) -> None:
    def replica(*settings: str, weights: str = "w") -> str:
        return replica_fingerprint(folder, weights, *settings)

    assert replica("bfloat16", "cpu") == replica("bfloat16", "cpu")
    seen = {replica("bfloat16", "cpu"), replica("float32", "cpu"), replica("cpu", weights="x")}
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_text("{}")
        seen.add(replica("bfloat16", "cpu"))
    assert len(seen) == 5
