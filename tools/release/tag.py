"""The tag of a release says what folovllm/version.py says, or there is no release."""

from collections.abc import Iterable

from tools.release.steps import ReleaseError, run


def version_tags() -> list[str]:
    """The tags of the present commit that name a version. Raises ReleaseError."""
    advice = "a release is built in a clone of the repository"
    return run("git", "tag", "--points-at", "HEAD", "--list", "v*", advice=advice).split()


def check_tags(tags: Iterable[str], version: str) -> None:
    """Raises ReleaseError where a tag names another version."""
    expected = f"v{version}"
    others = [tag for tag in tags if tag != expected]
    if others:
        raise ReleaseError(
            f"this commit is tagged {', '.join(others)}, but folovllm/version.py says {version}; "
            f"correct the version and tag the commit that does, or tag this one {expected}"
        )
