"""ChatTerminal: the ways to have a chat: one question, lines that are typed, lines of a pipe."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from folovllm.errors import FolovError
from folovllm_client.cli.chat.session import ChatSession
from folovllm_client.cli.chat.slash_commands import SlashCommands
from folovllm_client.cli.console import CommandError, failure_text, note

if TYPE_CHECKING:
    from folovllm_client.cli.chat.line_editor import LineEditor


class ChatTerminal:
    """Brings lines to a session, whose calls run in `runner`'s event loop.

    The loop runs only while an answer is awaited; Ctrl-C then cancels the call and raises
    KeyboardInterrupt here.
    """

    def __init__(self, session: ChatSession, runner: asyncio.Runner) -> None:
        self._session = session
        self._runner = runner
        self._commands = SlashCommands(session, self.ask)

    def ask(self, question: str) -> None:
        """Shows the answer to a question. Raises FolovError."""
        self._runner.run(self._session.ask(question))

    def type_lines(self, editor: "LineEditor") -> None:
        """Answers what is typed until the user ends it. Ctrl-C ends an answer, not the chat."""
        while not self._commands.ended:
            try:
                line = editor.read()
                if line is None:
                    return
                self._take(line)
            except KeyboardInterrupt:
                note("stopped")

    def pipe_lines(self, lines: Iterable[str]) -> bool:
        """Answers each line; whether all went well."""
        went_well = True
        for line in lines:
            went_well &= self._take(line)
            if self._commands.ended:
                break
        return went_well

    def _take(self, line: str) -> bool:
        """Does what a line says; False after an error, which is shown and ends only the turn."""
        line = line.strip()
        try:
            if line.startswith("/"):
                self._commands.run(line)
            elif line:
                self.ask(line)
        except FolovError as error:
            CommandError(failure_text(error)).show()
            return False
        return True
