"""CleanEnvironment: what a user has who has installed a part, and nothing else of ours."""

import sys
from collections.abc import Mapping
from pathlib import Path

from packaging.version import Version

from tools.release.steps import run

# A user's own; with them the messages of the contract have types too.
_CHECKER = ("mypy", "types-grpcio", "types-protobuf")
# How generated code complains of versions that it does not fit.
_WARNINGS = ("-W", "error::RuntimeWarning", "-W", "error::UserWarning")


class CleanEnvironment:
    """A virtual environment in `folder`, with the wheel and a type checker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = folder / "bin"

    def install(
        self, wheel: Path, extra: str, versions: Mapping[str, Version], *options: str
    ) -> None:
        """Makes the environment; packages have the `versions` that are given, or the newest.

        `options` are pip's.

        Raises ReleaseError.
        """
        run(sys.executable, "-m", "venv", self._folder, advice="install Python's venv package")
        constraints = self._folder / "constraints.txt"
        constraints.write_text("".join(f"{name}=={v}\n" for name, v in versions.items()))
        advice = "correct the ranges in pyproject.toml, unless it is the network"
        what: list[str | Path] = [
            *options,
            "--constraint",
            constraints,
            f"{wheel}[{extra}]",
            *_CHECKER,
        ]
        self._pip("install", *what, advice=advice)
        self._pip("check", advice="correct the ranges in pyproject.toml")

    def version(self, package: str) -> str:
        """Which one is installed. Raises ReleaseError."""
        program = f"import importlib.metadata as m; print(m.version({package!r}))"
        advice = f"{package} is not installed"
        return run(self._bin / "python", "-I", "-c", program, advice=advice)

    def check_types(self, script: Path) -> None:
        """Raises ReleaseError where the script is not as `mypy --strict` wants it."""
        options = ("--strict", "--config-file=", "--cache-dir=/dev/null")
        advice = "the types of the packages, or their py.typed, do not reach a user"
        run(self._bin / "mypy", *options, script, advice=advice, folder=self._folder)

    def run_client(self, script: Path, *arguments: str) -> None:
        """Runs a client's script; a warning of generated code fails it. Raises ReleaseError."""
        self.run_script(*_WARNINGS, script, *arguments)

    def run_script(self, *arguments: str | Path) -> str:
        """Runs a script that can import nothing but what is installed; what it prints.

        Raises ReleaseError.
        """
        advice = "it does not work as it is installed; see above"
        return run(self._bin / "python", "-I", *arguments, advice=advice, folder=self._folder)

    def run_command(self, *arguments: str) -> str:
        """Runs `folovllm`; what it prints. Raises ReleaseError."""
        advice = "the command does not work as it is installed; see above"
        return run(self._bin / "folovllm", *arguments, advice=advice, folder=self._folder)

    def _pip(self, *arguments: str | Path, advice: str) -> None:
        pip = (self._bin / "python", "-m", "pip", "--disable-pip-version-check")
        run(*pip, *arguments, advice=advice)
