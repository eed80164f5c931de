"""LineEditor: lines typed at a terminal, with editing and a history that outlives the program."""

from pathlib import Path

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory


class LineEditor:
    """Reads lines; they are kept in the user's folder for state, if it can be written."""

    def __init__(self) -> None:
        path = user_state_path("folovllm", appauthor=False) / "chat_history"
        self._session: PromptSession[str] = PromptSession(history=_open_history(path))

    def read(self) -> str | None:
        """The next line; None at the end, which is Ctrl-D, or Ctrl-C on an empty line.

        Ctrl-C on any other line clears it.
        """
        while True:
            try:
                return self._session.prompt("> ")
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    return None


def _open_history(path: Path) -> History:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)  # it says what was talked about
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
