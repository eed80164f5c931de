"""Free memory of the host under control group limits."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from engine_service import host_memory
from engine_service.host_memory import (
    FreeMemory,
    cgroup_free_memory,
    free_beside,
    free_host_memory,
)
from engine_service.memory_claims import Claim


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


def test_the_lower_of_machine_and_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "cgroup_free_memory", lambda *_: None)
    assert 0 < free_host_memory() <= psutil.virtual_memory().total
    monkeypatch.setattr(host_memory, "cgroup_free_memory", lambda *_: 12345)
    assert free_host_memory() == 12345


def test_a_claim_counts_in_the_groups_of_its_process(tmp_path: Path) -> None:
    own, brother, stranger = (tmp_path / name for name in ("own", "brother", "stranger"))
    own.write_text("0::/pod/container\n")
    brother.write_text("0::/pod/sidecar\n")
    stranger.write_text("0::/\n")
    write(tmp_path / "pod", memory__max="500", memory__current="100")
    write(tmp_path / "pod/container", memory__max="300", memory__current="100")
    assert cgroup_free_memory(tmp_path, own, [(stranger, 390)]) == 200
    assert cgroup_free_memory(tmp_path, own, [(brother, 190)]) == 200
    assert cgroup_free_memory(tmp_path, own, [(brother, 390), (stranger, 390)]) == 10
    assert cgroup_free_memory(tmp_path, own, [(own, 190)]) == 10
    assert cgroup_free_memory(tmp_path, own, [(brother, 1000)]) == 0


def test_what_is_claimed_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "cgroup_free_memory", lambda *_: None)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    claims = Claim(1, 300), Claim(2, 200)
    assert free_host_memory(claims) == 500
    assert free_beside(claims) == FreeMemory(1000, 500, claims)
    assert free_beside((Claim(1, 3000),)).claimed == 1000
    halves = Claim(1, 150), Claim(2, 100)
    assert free_beside(claims).shared_by(2) == FreeMemory(500, 250, halves)
