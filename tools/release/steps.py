"""What every step shares: a line of progress, and commands whose failure says what to do."""

import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class ReleaseError(Exception):
    """This is not to be released; the message says what failed and what to do."""


def say(text: str) -> None:
    """Prints a line of progress."""
    print(f"release: {text}", flush=True)


def run(*command: str | Path, advice: str, folder: Path = ROOT) -> str:
    """What a command prints.

    Raises ReleaseError where it fails, with the command, what it printed, and the `advice`.
    """
    result = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        words = shlex.join(map(str, command))
        raise ReleaseError(f"`{words}` failed\n{result.stdout.strip()}\n{advice}")
    return result.stdout.strip()
