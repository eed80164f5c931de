"""What the distributions have to hold, and nothing else: the files that git tracks.

The wheel holds the packages, each typed, the contract beside its stubs, what that imports, and the
licence. The sdist holds everything but what runs on the project's own machines.
"""

import tarfile
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

UNPUBLISHED = (".ci/",)
# A build adds it.
_METADATA_OF_SDIST = {"PKG-INFO"}


def expected_in_wheel(tracked: Iterable[str], packages: Mapping[str, str]) -> set[str]:
    """The paths in the wheel, without its metadata, for the paths that git tracks.

    `packages` are the names that folders have in it; those inside of others are no packages.
    """
    paths = [PurePosixPath(path) for path in tracked]
    expected = {
        str(PurePosixPath(name, path.relative_to(folder)))
        for folder, name in packages.items()
        for path in paths
        if path.is_relative_to(folder)
    }
    return expected | {f"{name}/py.typed" for name in packages.values() if "/" not in name}


def wheel_faults(names: Collection[str], expected: Collection[str]) -> list[str]:
    """What is wrong with a wheel that holds these names."""
    metadata = {name for name in names if PurePosixPath(name).parts[0].endswith(".dist-info")}
    faults = _differences(set(names) - metadata, set(expected))
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in metadata):
        faults.append("lacks LICENSE")
    return faults


def sdist_faults(names: Collection[str], tracked: Iterable[str]) -> list[str]:
    """What is wrong with an sdist that holds these names, given without its top folder."""
    expected = {path for path in tracked if not path.startswith(UNPUBLISHED)}
    return _differences(set(names), expected | _METADATA_OF_SDIST)


def names_in_wheel(wheel: Path) -> list[str]:
    """The paths of its files."""
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def names_in_sdist(sdist: Path) -> list[str]:
    """The paths of its files, without the folder that holds them all."""
    with tarfile.open(sdist) as archive:
        return [member.name.partition("/")[2] for member in archive if member.isfile()]


def _differences(names: set[str], expected: set[str]) -> list[str]:
    return [
        *(f"lacks {name}" for name in sorted(expected - names)),
        *(f"holds {name}, which git does not track" for name in sorted(names - expected)),
    ]
