"""What `make release` refuses, short of building and installing anything."""

import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tools.release.client_range import oldest_versions, requirements
from tools.release.contents import (
    expected_in_wheel,
    names_in_sdist,
    names_in_wheel,
    sdist_faults,
    wheel_faults,
)
from tools.release.distributions import packages
from tools.release.services import is_cancelled_call
from tools.release.steps import ReleaseError, run
from tools.release.tag import check_tags

TRACKED = [
    "README.md",
    ".ci/run",
    "tests/unit/test_a.py",
    "protos/buf.yaml",
    "protos/base/v1/a.proto",
    "protos/theirs/b.proto",
    "base/__init__.py",
    "base/py.typed",
    "base/v1/a_pb2.py",
    "client/base_client/__init__.py",
    "client/base_client/py.typed",
]
PACKAGES = {
    "base": "base",
    "protos/base": "base",
    "protos/theirs": "base/imports/theirs",
    "client/base_client": "base_client",
}
LICENCE = "base-1.0.dist-info/licenses/LICENSE"
WHOLE_WHEEL = [
    "base/__init__.py",
    "base/imports/theirs/b.proto",
    "base/py.typed",
    "base/v1/a.proto",
    "base/v1/a_pb2.py",
    "base_client/__init__.py",
    "base_client/py.typed",
    "base-1.0.dist-info/METADATA",
    LICENCE,
]


@pytest.mark.parametrize("tags", [[], ["v1.2.0"]])
def test_a_commit_without_a_tag_or_with_its_versions_may_be_released(tags: list[str]) -> None:
    check_tags(tags, "1.2.0")


@pytest.mark.parametrize("tags", [["v1.3.0"], ["v1.2.0", "v1.2.1"], ["v1.2"]])
def test_a_tag_of_another_version_is_refused(tags: list[str]) -> None:
    with pytest.raises(ReleaseError, match=rf"{tags[-1]}.* says 1\.2\.0; .* v1\.2\.0$"):
        check_tags(tags, "1.2.0")


def test_a_wheel_holds_the_packages_the_contract_and_the_licence() -> None:
    assert wheel_faults(WHOLE_WHEEL, expected_in_wheel(TRACKED, PACKAGES)) == []


@pytest.mark.parametrize(
    "missing",
    [
        "base/py.typed",
        "base_client/py.typed",
        "base/v1/a.proto",
        "base/v1/a_pb2.py",
        "base/imports/theirs/b.proto",
    ],
)
def test_a_wheel_without_a_file_is_refused(missing: str) -> None:
    names = [name for name in WHOLE_WHEEL if name != missing]
    assert wheel_faults(names, expected_in_wheel(TRACKED, PACKAGES)) == [f"lacks {missing}"]


def test_types_are_required_of_a_package_where_git_has_none_either() -> None:
    tracked = [path for path in TRACKED if path != "base/py.typed"]
    names = [name for name in WHOLE_WHEEL if name != "base/py.typed"]
    assert wheel_faults(names, expected_in_wheel(tracked, PACKAGES)) == ["lacks base/py.typed"]


def test_a_wheel_without_the_licence_is_refused() -> None:
    names = [name for name in WHOLE_WHEEL if name != LICENCE]
    assert wheel_faults(names, expected_in_wheel(TRACKED, PACKAGES)) == ["lacks LICENSE"]


@pytest.mark.parametrize(
    "extra", ["tests/unit/test_a.py", "base/__pycache__/a.cpython-311.pyc", "base/kernel.so"]
)
def test_a_wheel_with_tests_caches_or_what_is_compiled_is_refused(extra: str) -> None:
    faults = wheel_faults([*WHOLE_WHEEL, extra], expected_in_wheel(TRACKED, PACKAGES))
    assert faults == [f"holds {extra}, which git does not track"]


def test_an_sdist_holds_what_git_tracks_but_what_is_not_published() -> None:
    whole = [*(path for path in TRACKED if path != ".ci/run"), "PKG-INFO"]
    assert sdist_faults(whole, TRACKED) == []
    assert sdist_faults([*whole, ".ci/run"], TRACKED) == ["holds .ci/run, which git does not track"]
    assert sdist_faults(whole[1:], TRACKED) == ["lacks README.md"]


def test_names_are_read_from_both_archives(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.touch()
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as sdist:
        sdist.add(file, "base-1.0/base/a.py")
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.write(file, "base/a.py")
    assert names_in_sdist(tmp_path / "a.tar.gz") == ["base/a.py"]
    assert names_in_wheel(tmp_path / "a.whl") == ["base/a.py"]


def test_our_own_packages_are_found_with_their_names() -> None:
    assert packages()["client/folovllm_client"] == "folovllm_client"
    assert packages()["protos/folovllm"] == "folovllm"
    assert packages()["protos/buf"] == "folovllm/imports/buf"


def test_the_oldest_versions_of_an_installed_client(tmp_path: Path) -> None:
    metadata = """\
Metadata-Version: 2.4
Name: base
Version: 1.0
Provides-Extra: client
Provides-Extra: server
Requires-Dist: wire<3,>=1.5
Requires-Dist: wire>=1.10; python_version >= "3.11"
Requires-Dist: wire>=2.9; python_version < "3.11"
Requires-Dist: shell>=8.1; extra == "client"
Requires-Dist: logs==7; extra == "server"
"""
    wheel = tmp_path / "base-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("base-1.0.dist-info/METADATA", metadata)
    oldest = oldest_versions(requirements(wheel))
    assert oldest == {"wire": Version("1.10"), "shell": Version("8.1")}


def test_a_requirement_without_an_oldest_version_is_refused() -> None:
    with pytest.raises(ReleaseError, match="no oldest version of wire"):
        oldest_versions([Requirement("wire<3")])


@pytest.mark.parametrize(
    ("line", "cancelled"),
    [
        ('{"method": "/folovllm.v1.TokenizerService/Chat", "code": "CANCELLED"}', True),
        ('{"method": "/folovllm.v1.TokenizerService/Chat", "code": "OK"}', False),
        ('{"method": "/folovllm.v1.EngineService/Generate", "code": "CANCELLED"}', False),
        ('{"event": "ready"}', False),
        ("a warning of a library", False),
    ],
)
def test_cancelled_calls_are_told_by_the_log(line: str, cancelled: bool) -> None:
    assert is_cancelled_call(line) is cancelled


def test_a_failed_command_says_what_it_printed_and_what_to_do() -> None:
    with pytest.raises(ReleaseError) as raised:
        run("sh", "-c", "echo broken >&2; exit 3", advice="mend it")
    assert str(raised.value) == "`sh -c 'echo broken >&2; exit 3'` failed\nbroken\nmend it"
