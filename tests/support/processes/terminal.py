"""A program at a terminal of its own, for tests that type and read."""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]
CTRL_C, CTRL_D, CTRL_P = "\x03", "\x04", "\x10"

# Makes the terminal the one whose Ctrl-C reaches the process, which is the leader of a session.
_FOLOVLLM = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from folovllm_client.__main__ import main
main()
"""
_STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """The `folovllm` command at a pseudo-terminal."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self._fd, slave = os.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FOLOVLLM, *arguments],
            cwd=ROOT,
            env={**os.environ, "TERM": "dumb", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._unread = ""
        self.raw = ""

    def until(self, text: str, timeout: float = 30) -> str:
        """All that comes up to `text`, without styles; `raw` keeps them."""
        deadline = time.monotonic() + timeout
        while text not in self._unread:
            ready, _, _ = select.select([self._fd], [], [], deadline - time.monotonic())
            assert ready, f"no {text!r} in {self._unread!r}"
            new = os.read(self._fd, 65536).decode()
            self.raw += new
            self._unread += _STYLE.sub("", new).replace("\r", "")
        before, found, self._unread = self._unread.partition(text)
        return before + found

    def shows(self, text: str, timeout: float) -> bool:
        """Whether `text` comes in so many seconds."""
        try:
            self.until(text, timeout)
        except AssertionError:
            return False
        return True

    def ends(self, timeout: float) -> bool:
        """Whether the command ends in so many seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def exit_code(self) -> int:
        return self._process.wait(30)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)
