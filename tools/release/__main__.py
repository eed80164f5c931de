"""Builds a release into dist/ and refuses it where a user would find it broken.

    python -m tools.release

1. A tag of this commit must name the version of folovllm/version.py.
2. The sdist, and from it the wheel, are built and checked: metadata, contents.
3. At both ends of the range of versions that a client may have, the wheel is installed in a clean
   environment; there a user's typed script passes `mypy --strict` and is run against services of
   this environment, which must have everything back from the streams that it leaves unread.

Uploads nothing. Exit status 0 when everything held.
"""

import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from packaging.version import Version

from folovllm.version import __version__
from tools.release import user_script
from tools.release.clean_environment import CleanEnvironment
from tools.release.client_range import oldest_versions, requirements
from tools.release.distributions import Distributions, build, check_contents, check_metadata
from tools.release.services import Services
from tools.release.steps import ROOT, ReleaseError, say
from tools.release.tag import check_tags, version_tags


def main() -> int:
    """Runs every step and returns the exit status."""
    try:
        built = check_distributions()
        oldest = oldest_versions(requirements(built.wheel))
        check_client(built.wheel, "oldest", oldest)
        check_client(built.wheel, "newest", {})
    except ReleaseError as error:
        print(f"release: refused: {error}", file=sys.stderr)
        return 1
    say(f"passed; dist/ holds {built.sdist.name} and {built.wheel.name}")
    return 0


def check_distributions() -> Distributions:
    """Builds them and looks at them from outside. Raises ReleaseError."""
    tags = version_tags()
    check_tags(tags, __version__)
    say(f"version {__version__}, tagged {tags[0] if tags else 'not yet'}")
    built = build(__version__)
    say(f"built {built.sdist.relative_to(ROOT)} and {built.wheel.relative_to(ROOT)}")
    check_metadata(built)
    say("twine finds the metadata complete")
    check_contents(built)
    say("both hold what git tracks, typed, with contract and licence, and nothing else")
    return built


def check_client(wheel: Path, end: str, versions: Mapping[str, Version]) -> None:
    """Checks the installed client at one end of the range. Raises ReleaseError."""
    with tempfile.TemporaryDirectory(prefix="folovllm-release-") as folder:
        environment = CleanEnvironment(Path(folder) / "venv")
        environment.install(wheel, versions)
        found = [f"{name} {environment.version(name)}" for name in ("grpcio", "protobuf")]
        say(f"{end}: installed on Python {platform.python_version()} with {' and '.join(found)}")
        # A copy, so that nothing but what is installed can be imported.
        script = Path(shutil.copy(user_script.__file__, folder))
        environment.check_types(script)
        say(f"{end}: mypy --strict passes a user's script")
        services = Services()

        def use() -> None:
            environment.run_command("info", "--server", services.addresses[0])
            environment.run_script(script, *services.addresses)
            services.wait_for_cancelled(user_script.ABANDONED)

        services.during(use)
        say(f"{end}: it ran; {user_script.ABANDONED} streams were left, their blocks are free")


if __name__ == "__main__":
    sys.exit(main())
