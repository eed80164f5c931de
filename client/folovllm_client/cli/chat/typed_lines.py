"""Lines typed at a terminal, with editing and a history that outlives the program."""

from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory


def typed_lines() -> Iterator[str]:
    """Reads lines until Ctrl-D, or Ctrl-C on an empty line; any other Ctrl-C clears the line.

    The history is kept in the user's state folder, if that is writable.
    """
    path = user_state_path("folovllm", appauthor=False) / "chat_history"
    session: PromptSession[str] = PromptSession(history=_open_history(path))
    while True:
        try:
            yield session.prompt("> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            if not session.default_buffer.text:
                return


def _open_history(path: Path) -> History:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)  # the questions are private
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
