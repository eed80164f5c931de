"""The ends of the range of versions that a client's installation may have."""

from collections.abc import Iterable
from pathlib import Path
from zipfile import ZipFile

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.version import Version

from tools.release.steps import ReleaseError

EXTRA = "client"


def requirements(wheel: Path) -> list[Requirement]:
    """What the wheel needs on this interpreter with the client's extra."""
    with ZipFile(wheel) as archive:
        path = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        needed = Metadata.from_email(archive.read(path)).requires_dist or []
    return [
        requirement
        for requirement in needed
        if requirement.marker is None or requirement.marker.evaluate({"extra": EXTRA})
    ]


def oldest_versions(needed: Iterable[Requirement]) -> dict[str, Version]:
    """The oldest version that each package may have. Raises ReleaseError where one has none."""
    oldest: dict[str, Version] = {}
    for requirement in needed:
        bounds = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
        if not bounds:
            raise ReleaseError(f"pyproject.toml names no oldest version of {requirement.name}")
        oldest[requirement.name] = max(bounds + [oldest.get(requirement.name, bounds[0])])
    return oldest
