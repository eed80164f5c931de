"""The three ways to chat: line by line at a terminal, through a pipe, and with one question."""

from collections.abc import Iterable

import click

from client.chat_session import ChatSession
from client.console import CommandError, dim, failure_text
from client.line_editor import LineEditor
from client.slash_commands import SlashCommands
from folovllm.errors import FolovError


def chat_at_terminal(session: ChatSession, editor: LineEditor) -> None:
    """Answers what is typed until the user ends it. Ctrl-C ends an answer, not the chat."""
    commands = SlashCommands(session)
    while not commands.ended:
        line = editor.read()
        if line is None:
            return
        try:
            _take(session, commands, line)
        except KeyboardInterrupt:
            click.echo(dim("stopped"), err=True)


def chat_through_pipe(session: ChatSession, lines: Iterable[str]) -> bool:
    """Answers each line; whether all went well."""
    commands = SlashCommands(session)
    went_well = True
    for line in lines:
        went_well &= _take(session, commands, line)
        if commands.ended:
            break
    return went_well


def _take(session: ChatSession, commands: SlashCommands, line: str) -> bool:
    """Does what a line says; False after an error, which is shown and ends only the turn."""
    line = line.strip()
    try:
        if line.startswith("/"):
            commands.run(line)
        elif line:
            session.ask(line)
    except FolovError as error:
        CommandError(failure_text(error)).show()
        return False
    return True
