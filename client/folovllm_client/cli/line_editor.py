"""LineEditor: lines from a terminal, with editing and a history that outlives the program.

The standard library's readline does both; where Python was built without it, lines are plain.
"""

import importlib
import importlib.util
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click

_PROMPT = "> "
_HISTORY_LINES = 1000


class LineEditor:
    """Reads lines while it is entered.

    The history is read when it is entered and written when it is left, as far as that is possible:
    an unwritable folder is no error.
    """

    def __init__(self, history: Path | None) -> None:
        self._history = history
        found = importlib.util.find_spec("readline")
        self._readline: Any = None if found is None else importlib.import_module("readline")

    def __enter__(self) -> Self:
        if self._readline is not None:
            self._readline.set_history_length(_HISTORY_LINES)
            if self._history is not None:
                with suppress(OSError):
                    self._readline.read_history_file(str(self._history))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._readline is None or self._history is None:
            return
        with suppress(OSError):
            self._history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._readline.write_history_file(str(self._history))

    def read(self) -> str | None:
        """The next line; None at the end, which is Ctrl-D, or Ctrl-C on an empty line.

        Ctrl-C on any other line clears it.
        """
        while True:
            try:
                return input(_PROMPT)
            except EOFError:
                click.echo()
                return None
            except UnicodeDecodeError as error:
                click.echo(f"this is no text: {error}", err=True)
            except KeyboardInterrupt:
                click.echo()
                if self._readline is None or not self._readline.get_line_buffer():
                    return None


def history_file() -> Path | None:
    """Where the lines of chats are kept: the user's folder for state (XDG). None without a home."""
    folder = os.environ.get("XDG_STATE_HOME", "")
    if folder.startswith("/"):  # the specification has others ignored
        return Path(folder, "folovllm", "chat_history")
    try:
        return Path.home() / ".local" / "state" / "folovllm" / "chat_history"
    except RuntimeError:
        return None
