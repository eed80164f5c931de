"""What the command line shows besides its results: status, dim text, errors, commands to type."""

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import click

from folovllm.errors import DeadlineError, FolovError
from folovllm_client.api.requests import UnreachableError

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CLEAR_LINE = "\r\x1b[K"
_SECONDS_PER_FRAME = 0.1
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "\ufffd") | {9: "\t", 10: "\n"}


class CommandError(click.ClickException):
    """A failure as the user sees it."""

    def show(self, file: Any = None) -> None:
        """Prints the one line."""
        line = " ".join(self.message.split())
        click.echo(f"{click.style('error:', fg='red')} {line}", err=True)


class StatusLine:
    """One line at the end of standard error that moves while something is under way.

    Where standard error is no terminal there is no such line, and only `print` writes.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""

    def print(self, line: str) -> None:
        """Writes a line above the status."""
        self._draw(f"{line}\n{self._shown}")

    @asynccontextmanager
    async def showing(self, text: str) -> AsyncIterator[None]:
        """Shows `text` and the seconds that pass, as long as the body runs."""
        if not self._terminal:
            yield
            return
        turning = asyncio.create_task(self._turn(text))
        try:
            yield
        finally:
            turning.cancel()
            with suppress(asyncio.CancelledError):
                await turning
            self._shown = ""
            self._draw("")

    async def _turn(self, text: str) -> None:
        started = time.monotonic()
        while True:
            for frame in _FRAMES:
                passed = time.monotonic() - started
                self._shown = dim(f"{frame} {text} · {passed:.0f} s")
                self._draw(self._shown)
                await asyncio.sleep(_SECONDS_PER_FRAME)

    def _draw(self, text: str) -> None:
        click.echo((_CLEAR_LINE if self._terminal else "") + text, nl=False, err=True)


def dim(text: str) -> str:
    """Text that steps back."""
    return click.style(text, dim=True)


def harmless(text: str) -> str:
    """Text from elsewhere without the characters that steer a terminal."""
    return text.translate(_CONTROLS)


def failure_text(error: FolovError) -> str:
    """What the user is told of an error, with what can be done."""
    if isinstance(error, UnreachableError):
        return f"{error}; start it with `{command_name()} serve`, or choose another with --server"
    if isinstance(error, DeadlineError):
        return f"no complete answer in time ({error})"
    return str(error)


def command_name() -> str:
    """How the running command can be typed again from the working directory."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py":
        return f"{_as_typed(Path(sys.executable))} -m folovllm_client"
    return _as_typed(script)


def _as_typed(program: Path) -> str:
    """A program by its name where the search path has it, else by its shortest path."""
    found = shutil.which(program.name)
    program = program.absolute()
    if found is not None and Path(found).absolute() == program:
        return program.name
    if program.is_relative_to(Path.cwd()):
        return str(program.relative_to(Path.cwd()))
    return str(program)
