"""Which parts are installed, and whether the versions of their packages fit."""

import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from folovllm.installation.parts import PARTS, listed, missing_packages
from folovllm.installation.pip_command import (
    CLONE,
    install_command,
    is_clone,
    pip_install,
    wants_cpu_torch,
)
from folovllm_client.cli.doctor.findings import Finding

_OWN = {"tokenizer": "transformers", "engine": "torch"}
"""Where these are, and the services' grpcio-reflection, a part was meant to be installed."""

_SHOWN = ("grpcio", "protobuf", "transformers")


def check_packages(wanted: str) -> list[Finding]:
    """What each part lacks, and which packages have versions that do not fit.

    `wanted` is the part that has to be complete; others may have been left out.
    """
    lacking = {part: missing_packages(part) for part in PARTS if part != "all"}
    complete = [part for part, missing in lacking.items() if not missing]
    parts = [_check_part(part, missing, wanted) for part, missing in lacking.items()]
    return [*parts, *_check_versions(complete)]


def installed_versions() -> dict[str, str]:
    """The version of each package of any part that is installed."""
    found = {package: _version(package) for package in PARTS["all"]}
    return {package: number for package, number in found.items() if number is not None}


def _check_part(part: str, missing: list[str], wanted: str) -> Finding:
    if not missing:
        return Finding(part, "ok", "complete")
    if part == "client" or wanted in (part, "all") or _was_begun(part, missing):
        command = install_command("all" if wanted == "all" else part)
        return Finding(part, "error", f"lacks {listed(missing)}", command)
    return Finding(part, "info", "not installed", install_command(part))


def _was_begun(part: str, missing: list[str]) -> bool:
    return _OWN[part] not in missing and "grpcio-reflection" not in missing


def _check_versions(parts: Iterable[str]) -> Iterator[Finding]:
    for package, allowed in _ranges(parts).items():
        installed = _version(package)
        if installed is None:  # such as uvloop, which may be left out
            continue
        if not allowed.contains(installed, prereleases=True):
            asked = _pin(allowed) or allowed
            cpu_torch = package == "torch" and wants_cpu_torch()
            command = pip_install(f"{package}{asked}", cpu_torch=cpu_torch)
            yield Finding(package, "error", f"is {installed}, but has to be {asked}", command)
        elif package in _SHOWN:
            yield Finding(package, "ok", installed)


def _pin(allowed: SpecifierSet) -> str:
    """The one version that is allowed, if it is one."""
    return next((str(each) for each in allowed if each.operator == "=="), "")


def _ranges(parts: Iterable[str]) -> dict[str, SpecifierSet]:
    """The versions that the parts together allow of each package, by its canonical name."""
    ranges: dict[str, SpecifierSet] = {}
    extras = [*parts]
    for extra in extras:  # grows
        for requirement in _requirements(extra):
            name = canonicalize_name(requirement.name)
            if name == "folovllm":
                extras += requirement.extras.difference(extras)
            else:
                ranges[name] = ranges.get(name, SpecifierSet()) & requirement.specifier
    return ranges


def _requirements(extra: str) -> list[Requirement]:
    """What the base and an extra require on this Python, if anything here says it."""
    if is_clone():
        project = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        texts = [*project["dependencies"], *project["optional-dependencies"][extra]]
    else:
        try:
            texts = distribution("folovllm").requires or []
        except PackageNotFoundError:
            texts = []
    found = map(Requirement, texts)
    return [each for each in found if not each.marker or each.marker.evaluate({"extra": extra})]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
