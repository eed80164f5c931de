"""What the command line shows besides its results: progress, notes, errors, commands to type.

rich is imported when something is shown, so that other commands start sooner.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from folovllm.errors import (
    ConfigError,
    FolovError,
    InvalidRequestError,
    UnknownHostError,
    UnreachableError,
)
from folovllm.installation.typed import typed_program

if TYPE_CHECKING:
    from rich.console import Console

UNARY_TIMEOUT = 10.0
"""Seconds that a call without a stream may take."""

_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "\ufffd") | {9: "\t", 10: "\n"}


class CommandError(click.ClickException):
    """A failure as the user sees it."""

    def show(self, file: Any = None) -> None:
        """Prints the one line."""
        console = open_console(err=True)
        console.print("error:", style="red", end=" ")
        console.print(harmless(" ".join(self.message.split())))


class TypingError(CommandError):
    """A command that was typed wrong."""

    exit_code = 2


def open_console(*, err: bool) -> "Console":
    """Standard error or output, with styles if it is a terminal; text is printed as it is."""
    from rich.console import Console

    return Console(stderr=err, markup=False, emoji=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Shows `text` and the time that passes while the body runs, if standard error is a terminal.

    What is written there and to standard output meanwhile appears above that line.
    """
    console = open_console(err=True)
    if not console.is_interactive:
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    label = TextColumn("{task.description}", style="dim", markup=False)
    columns = SpinnerColumn(style="dim"), label, TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as running:
        running.add_task(text, total=None)
        yield


def note(text: str) -> None:
    """Writes a dimmed line to standard error."""
    open_console(err=True).print(harmless(text), style="dim")


def show_text(text: str, *, nl: bool = True) -> None:
    """Writes text from elsewhere to standard output: exact in a pipe, harmless at a terminal."""
    click.echo(harmless(text) if sys.stdout.isatty() else text, nl=nl)


def harmless(text: str) -> str:
    """Text from elsewhere without the characters that control a terminal."""
    return text.translate(_CONTROLS)


def failure_text(error: FolovError) -> str:
    """The message for the user, with the remedy if there is one."""
    if isinstance(error, UnknownHostError):
        return f"{error}; choose another with --server"
    if isinstance(error, UnreachableError):
        return f"{error}; start it with `{command_name()} serve`, or choose another with --server"
    text = str(error)
    if isinstance(error, InvalidRequestError):
        return _with_flags(text, error.field.rpartition(".")[2].partition("[")[0])
    return _with_flags(text, text.partition(" ")[0]) if isinstance(error, ConfigError) else text


def _with_flags(text: str, field: str) -> str:
    """The message with the flags of the running command in place of what they set.

    `field` is what it is about.
    """
    for name, flag in _flags().items():
        if name == field:
            text = re.sub(rf"\A(sampling_params\.)?{name}\b(\[\w+\])?", flag, text)
        if "_" in name:  # no word that may mean something else
            text = re.sub(rf"(?<![\w-]){name}\b", flag, text)
    return text


def _flags() -> dict[str, str]:
    """The flag of each option of the command that runs, by what it sets."""
    context = click.get_current_context(silent=True)
    if context is None:
        return {}
    command = context.command
    if isinstance(command, click.Group) and context.invoked_subcommand is not None:
        command = command.commands[context.invoked_subcommand]
    options = (each for each in command.params if isinstance(each, click.Option))
    return {option.name: option.opts[0] for option in options if option.name}


def command_name() -> str:
    """How to type the running command in the working directory."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py":
        return f"{typed_program(Path(sys.executable))} -m folovllm"
    return typed_program(script)
