"""FailureReason: why a service ended, by what it printed."""

import json

_PREFIX = "error: "


class FailureReason:
    """Reads a service's lines and keeps the last one that says why it ends."""

    def __init__(self) -> None:
        self.text: str | None = None
        """The reason in one line."""
        self._in_traceback = False

    def read(self, line: str) -> None:
        """Notes `error: …`, an error that is logged as JSON, or the last line of a traceback."""
        if line.startswith(_PREFIX):
            self.text = line.removeprefix(_PREFIX)
        elif line.startswith("{"):
            self._read_entry(line)
        elif line.startswith("Traceback "):
            self._in_traceback = True
        elif self._in_traceback and line.strip() and not line.startswith(" "):
            self.text = line
            self._in_traceback = False

    def _read_entry(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if entry.get("level") in ("error", "critical"):
            lines = str(entry.get("exception", "")).strip().splitlines()
            self.text = ": ".join([str(entry.get("event")), *lines[-1:]])


def is_failure_line(line: str) -> bool:
    """Whether a service says with this line, by itself, why it ends."""
    return line.startswith(_PREFIX)
