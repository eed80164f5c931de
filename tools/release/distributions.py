"""Builds the sdist, and the wheel from it, and has them checked."""

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tools.release.contents import (
    expected_in_wheel,
    names_in_sdist,
    names_in_wheel,
    sdist_faults,
    wheel_faults,
)
from tools.release.steps import ROOT, ReleaseError, run

FOLDER = ROOT / "dist"


@dataclass(frozen=True, slots=True)
class Distributions:
    """The two files that are released."""

    sdist: Path
    wheel: Path


def build(version: str) -> Distributions:
    """Builds both into dist/. Raises ReleaseError."""
    stem = f"folovllm-{version}"
    built = Distributions(FOLDER / f"{stem}.tar.gz", FOLDER / f"{stem}-py3-none-any.whl")
    for path in (built.sdist, built.wheel):
        path.unlink(missing_ok=True)
    run(sys.executable, "-m", "build", "--outdir", FOLDER, advice="see above")
    missing = [path.name for path in (built.sdist, built.wheel) if not path.exists()]
    if missing:
        raise ReleaseError(f"{', '.join(missing)} not built; is the version another one there?")
    return built


def check_metadata(built: Distributions) -> None:
    """What the package index will say of both. Raises ReleaseError."""
    advice = "correct the metadata in pyproject.toml, or README.md"
    files = (built.sdist, built.wheel)
    run(sys.executable, "-m", "twine", "check", "--strict", *files, advice=advice)


def check_contents(built: Distributions) -> None:
    """Raises ReleaseError where a distribution lacks a file or holds another one."""
    advice = "correct the build's targets in pyproject.toml"
    run(sys.executable, "-m", "check_wheel_contents", built.wheel, advice=advice)
    clone = "a release is built in a clone of the repository"
    tracked = run("git", "ls-files", advice=clone).split("\n")
    wheel = wheel_faults(names_in_wheel(built.wheel), expected_in_wheel(tracked, packages()))
    sdist = sdist_faults(names_in_sdist(built.sdist), tracked)
    faults = [f"the wheel {fault}" for fault in wheel] + [f"the sdist {fault}" for fault in sdist]
    if faults:
        raise ReleaseError("\n".join([*faults, f"{advice}; commit or remove what is not tracked"]))


def packages() -> dict[str, str]:
    """The names that folders of the repository have in the wheel."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = configuration["tool"]["hatch"]["build"]["targets"]["wheel"]
    return {folder: wheel["sources"].get(folder, folder) for folder in wheel["only-include"]}
