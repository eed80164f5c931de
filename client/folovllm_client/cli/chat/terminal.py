"""ChatTerminal: brings a question, typed lines or the lines of a pipe to a session."""

import asyncio
from collections.abc import Iterable

from folovllm.errors import FolovError
from folovllm_client.cli.chat.session import ChatSession
from folovllm_client.cli.chat.slash_commands import SlashCommands
from folovllm_client.cli.console import CommandError, failure_text, note


class ChatTerminal:
    """Answers lines by a session, whose calls run in `runner`'s event loop.

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

    def answer(self, lines: Iterable[str], *, typed: bool) -> bool:
        """Answers each line; whether all went well. Ctrl-C ends an answer to a typed one alone."""
        went_well = True
        for line in lines:
            try:
                went_well &= self._answer(line)
            except KeyboardInterrupt:
                if not typed:
                    raise
                note("stopped")
            if self._commands.ended:
                break
        return went_well

    def _answer(self, line: str) -> bool:
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
