"""Builds a release into dist/ and refuses it where a user would find it broken.

    python -m tools.release

1. A tag of this commit must name the version of folovllm/version.py.
2. The sdist, and from it the wheel, are built and checked: metadata, contents.
3. At both ends of the range of versions that a client may have, the wheel is installed in a clean
   environment; there a user's typed script passes `mypy --strict` and is run against services of
   this environment, which must have everything back from the streams that it leaves unread.
4. With everything, the wheel is installed in another clean environment; there the quick start, a
   script for vLLM and every snippet of README run.

Uploads nothing. Exit status 0 when everything held.
"""

import platform
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

from folovllm.installation.pip_command import TORCH_INDEX
from folovllm.version import __version__
from tools.release import readme_page, user_script
from tools.release.clean_environment import CleanEnvironment
from tools.release.client_range import EXTRA, oldest_versions, requirements
from tools.release.distributions import Distributions, build, check_contents, check_metadata
from tools.release.services import Services
from tools.release.steps import ROOT, ReleaseError, say
from tools.release.tag import check_tags, version_tags

_VLLM_SCRIPT = Path(__file__).with_name("vllm_script.py")
"""Not imported, which would run it."""


def main() -> int:
    """Runs every step and returns the exit status."""
    try:
        built = check_distributions()
        oldest = oldest_versions(requirements(built.wheel))
        check_client(built.wheel, "oldest", oldest)
        check_client(built.wheel, "newest", {})
        check_everything(built.wheel)
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
        environment.install(wheel, EXTRA, versions)
        found = [f"{name} {environment.version(name)}" for name in ("grpcio", "protobuf")]
        say(f"{end}: installed on Python {platform.python_version()} with {' and '.join(found)}")
        # A copy, so that nothing but what is installed can be imported.
        script = Path(shutil.copy(user_script.__file__, folder))
        environment.check_types(script)
        say(f"{end}: mypy --strict passes a user's script")
        services = Services()

        def use() -> None:
            environment.run_command("info", "--server", services.addresses[0])
            environment.run_client(script, *services.addresses)
            services.wait_for_cancelled(user_script.ABANDONED)

        services.during(use)
        say(f"{end}: it ran; {user_script.ABANDONED} streams were left, their blocks are free")


def check_everything(wheel: Path) -> None:
    """Checks what a user with everything tries first. Raises ReleaseError."""
    with tempfile.TemporaryDirectory(prefix="folovllm-release-") as folder:
        environment = CleanEnvironment(Path(folder) / "venv")
        torch = Version(version("torch"))
        index = ("--extra-index-url", TORCH_INDEX) if torch.local and answers(TORCH_INDEX) else ()
        environment.install(wheel, "all", {"torch": Version(torch.public)}, *index)
        say(f"everything: installed with torch {environment.version('torch')}")
        say(environment.run_command("doctor", "all").splitlines()[-1])
        for script in (ROOT / "examples" / "m0_basic_usage.py", _VLLM_SCRIPT):
            environment.run_script(Path(shutil.copy(script, folder)))
            say(f"everything: {script.name} ran")
        script = Path(shutil.copy(readme_page.__file__, folder))
        buf = Path(sys.executable).parent / "buf"
        say(f"everything: README's {environment.run_script(script, ROOT, buf).splitlines()[-1]}")


def answers(index: str) -> bool:
    """Whether an index of packages can be reached."""
    try:
        urllib.request.urlopen(f"{index}/torch/", timeout=3).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
