"""The tuner's choices and what it keeps of them; what a GPU would take is made up."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine_service.layers.linear import tuner as tuner_module
from engine_service.layers.linear.tuner import Tuner

CUDA = torch.device("cuda")
TIMES = {"slow": 9.0, "fast": 2.0, "broken": float("inf"), "other": 3.0}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """On a made-up GPU: the choices that were measured, in order."""
    found: list[str] = []

    def time(run: Callable[[], object]) -> float:
        choice = str(run())
        found.append(choice)
        return TIMES[choice]

    monkeypatch.setattr(tuner_module, "_time", time)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    return found


def test_a_cpu_uses_the_first_choice_and_keeps_nothing(tmp_path: Path) -> None:
    tuner = Tuner(torch.device("cpu"), tmp_path)

    def run(choice: str) -> None:
        raise AssertionError("nothing is measured")

    assert tuner.fastest("a product", ["first", "second"], run) == "first"
    tuner.save()
    assert list(tmp_path.iterdir()) == []


def test_the_fastest_is_found_once_and_kept(measured: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "gpu"
    for _ in range(2):
        tuner = Tuner(CUDA, folder)
        for _ in range(2):
            assert tuner.fastest("a product", ["slow", "fast", "broken"], str) == "fast"
        tuner.save()
        assert measured == ["slow", "fast", "broken"]
    (path,) = folder.iterdir()
    assert "A-GPU" in path.name and torch.__version__ in path.name
    assert json.loads(path.read_text()) == {"a product": "fast"}


def test_an_answer_that_is_no_longer_a_choice_is_found_anew(
    measured: list[str], tmp_path: Path
) -> None:
    first = Tuner(CUDA, tmp_path)
    first.fastest("a product", ["slow", "fast"], str)
    first.save()
    assert Tuner(CUDA, tmp_path).fastest("a product", ["slow", "other"], str) == "other"


def test_what_another_process_found_is_kept(measured: list[str], tmp_path: Path) -> None:
    ours, theirs = Tuner(CUDA, tmp_path), Tuner(CUDA, tmp_path)
    for tuner, question in ((theirs, "theirs"), (ours, "ours")):
        tuner.fastest(question, ["fast"], str)
        tuner.save()
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == {"ours": "fast", "theirs": "fast"}


@pytest.mark.parametrize("content", ["", "[1]", "{", "null"])
def test_a_broken_file_is_none(content: str, measured: list[str], tmp_path: Path) -> None:
    Tuner(CUDA, tmp_path).save()
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    assert Tuner(CUDA, tmp_path).fastest("a product", ["slow", "fast"], str) == "fast"


def test_what_others_may_have_written_is_measured_anew(
    measured: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fastest() -> str:
        tuner = Tuner(CUDA, tmp_path / "gpu")
        choice = tuner.fastest("a product", ["slow", "fast"], str)
        tuner.save()
        return choice

    fastest()
    (path,) = (tmp_path / "gpu").iterdir()
    path.write_text(json.dumps({"a product": "slow"}))
    assert fastest() == "slow"
    path.chmod(0o666)
    assert fastest() == "fast"
    assert f"{path} are not used: others may write to {path}" in caplog.text
    assert json.loads(path.read_text()) == {"a product": "fast"} and fastest() == "fast"


def test_without_a_folder_nothing_is_kept(measured: list[str]) -> None:
    tuner = Tuner(CUDA, None)
    tuner.fastest("a product", ["fast"], str)
    assert tuner.fastest("a product", ["fast"], str) == "fast"
    tuner.save()
    assert measured == ["fast"]


def test_a_folder_that_cannot_be_is_only_warned_of(
    measured: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    tuner = Tuner(CUDA, tmp_path / "file" / "gpu")
    assert tuner.fastest("a product", ["fast"], str) == "fast"
    tuner.save()
    assert f"cannot write the tuning results to {tmp_path}{os.sep}file" in caplog.text


def test_a_choice_that_fails_takes_infinite_time() -> None:
    def run() -> None:
        raise RuntimeError("out of shared memory")

    assert tuner_module._time(run) == float("inf")
