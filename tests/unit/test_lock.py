"""requirements/lock.txt fits pyproject.toml, and names packages, not where they came from."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent
# TORCH chooses torch; its builds with CUDA name their triton.
UNLOCKED = {"torch", "triton"}


def locked() -> list[Requirement]:
    lines = (ROOT / "requirements" / "lock.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]


def required() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    return [Requirement(text) for text in texts]


def name_of(requirement: Requirement) -> str:
    return requirement.name.lower().replace("_", "-")


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_requirement_is_locked_to_a_version_that_it_allows(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    versions = {
        name_of(lock): next(iter(lock.specifier)).version
        for lock in locked()
        if lock.marker is None or lock.marker.evaluate(environment)
    }
    for requirement in required():
        if name_of(requirement) not in UNLOCKED | {"folovllm"}:
            version = versions.get(name_of(requirement), "nothing")
            assert requirement.specifier.contains(version), f"make lock: {requirement}, {version}"


def test_the_machine_chooses_torch_and_what_comes_with_it() -> None:
    names = {name_of(lock) for lock in locked()}
    assert not names & UNLOCKED
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-"))]


def test_no_index_is_named() -> None:
    text = (ROOT / "requirements" / "lock.txt").read_text()
    assert "://" not in text and "file:" not in text and "--" not in text
