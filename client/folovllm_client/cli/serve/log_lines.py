"""LogLines: what the services print, passed on to standard error."""

import json
import sys
from datetime import UTC, datetime
from typing import Any

from folovllm.serving.call_log import EVENT
from folovllm.serving.logs import LogConfig, text_renderer
from folovllm_client.cli.console import open_console
from folovllm_client.launch.failure_reason import is_failure_line


class LogLines:
    """Takes the services' lines, one at a time.

    The services write JSON to the pipe unless they are told otherwise. At a terminal it becomes
    text, and the lines of requests give way to the status line. Why a service ended is the last
    line of all, and not written here.
    """

    def __init__(self, config: LogConfig) -> None:
        self._as_json = config.as_json
        self._as_text = config.log_format == "auto" and sys.stderr.isatty()
        self.live = self._as_text and open_console(err=True).is_interactive
        """Whether a status line is to stand for the lines of requests."""
        self._with_requests = not self.live or config.log_level == "debug"
        self._renderer = text_renderer()

    def warn(self, text: str) -> None:
        """Writes a line of its own, as the services would."""
        if self._as_json or self._as_text:
            now = datetime.now(UTC).isoformat()
            self(json.dumps({"event": text, "level": "warning", "timestamp": now}))
        else:
            self(f"warning: {text}")

    def __call__(self, line: str) -> None:
        """Writes a line, or what it becomes."""
        if is_failure_line(line):
            return
        entry = _entry(line) if self._as_text else None
        if entry is None:
            # click would write past what is live, not above it.
            print(line, file=sys.stderr, flush=True)
        elif self._with_requests or entry["event"] != EVENT or entry["level"] != "info":
            print(self._renderer(None, "", entry), file=sys.stderr, flush=True)


def _entry(line: str) -> dict[str, Any] | None:
    """A line of the services' own; None for what something else has printed."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"event", "level"} <= entry.keys() else None
