"""Commands: the group of all subcommands, in sections, with the errors of all as exit codes."""

import difflib
from collections.abc import Iterable
from typing import Any

import click

from folovllm.errors import FolovError
from folovllm_client.cli.console import CommandError, TypingError, command_name, failure_text
from folovllm_client.cli.usage_errors import usage_error

INTERRUPTED = 130


class Commands(click.Group):
    """Lists its commands in the order they were added in, under the headings of `add_section`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._sections: dict[str, list[str]] = {}

    def add_section(self, heading: str, commands: Iterable[click.Command]) -> None:
        """Adds commands that the help lists together."""
        for command in commands:
            self.add_command(command)
            self._sections.setdefault(heading, []).append(str(command.name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes each section's commands, with aligned summaries."""
        width = max(map(len, self.commands))
        for heading, names in self._sections.items():
            with formatter.section(heading):
                limit = formatter.width - width - 6
                rows = [
                    (name.ljust(width), self.commands[name].get_short_help_str(limit))
                    for name in names
                ]
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the arguments name, or suggests a similar one."""
        name = args[0]
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        similar = [each for each in self.commands if each.startswith(name)]
        similar = similar or difflib.get_close_matches(name, self.commands, n=1)
        program = command_name()
        remedy = (
            f"did you mean `{program} {similar[0]}`?"
            if similar
            else f"`{program} --help` lists the commands"
        )
        raise TypingError(f"there is no command {name}; {remedy}")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the flags before the command."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise usage_error(error, None) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the requested command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise usage_error(error, ctx.invoked_subcommand) from None
        except FolovError as error:
            raise CommandError(failure_text(error)) from None
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


def examples(*lines: str) -> str:
    """The end of a command's help: what one may type."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
