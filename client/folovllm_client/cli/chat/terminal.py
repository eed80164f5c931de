"""The questions and commands of a chat, typed at a terminal or from a pipe."""

from collections.abc import Callable, Iterable

from folovllm.errors import FolovError
from folovllm_client.cli.chat.session import ChatSession
from folovllm_client.cli.chat.slash_commands import SlashCommands
from folovllm_client.cli.console import CommandError, failure_text, note

_EXITS = {"exit": "/exit", "quit": "/exit"}
"""What people type to leave; from a pipe, these are questions as any."""


def answer_lines(
    lines: Iterable[str], session: ChatSession, ask: Callable[[str], None], *, typed: bool
) -> bool:
    """Runs each line; False after an error, which is shown and drops only its turn.

    `ask` asks a question in the session. Ctrl-C stops an answer if lines are typed, and else ends
    everything.
    """
    commands = SlashCommands(session, ask)
    exits = _EXITS if typed else {}
    went_well = True
    for line in map(str.strip, lines):
        try:
            if line.startswith("/") or line in exits:
                commands.run(exits.get(line, line))
            elif line:
                ask(line)
        except FolovError as error:
            CommandError(failure_text(error)).show()
            went_well = False
        except KeyboardInterrupt:
            if not typed:
                raise
            note("stopped")
        if commands.ended:
            break
    return went_well
