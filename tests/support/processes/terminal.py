"""A program at a terminal of its own, for tests that type and read."""

import os
import re
import select
import subprocess
import sys
import termios
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
# A blank after the prompt is skipped, not written.
_BLANK = re.compile(r"\x08\x1b\[2C")
_STEERING = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
_UNFINISHED = re.compile(r"(\x08?\x1b(\[[0-9;?]*)?|\x08)\Z")


class Terminal:
    """The `folovllm` command at a pseudo-terminal."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self._fd, slave = os.openpty()
        termios.tcsetwinsize(slave, (24, 100))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FOLOVLLM, *arguments],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._unread = self._unfinished = self.raw = ""

    def until(self, text: str) -> str:
        """All that comes up to `text`, without what steers the terminal; `raw` keeps that."""
        deadline = time.monotonic() + 30
        while text not in self._unread:
            ready, _, _ = select.select([self._fd], [], [], deadline - time.monotonic())
            assert ready, f"no {text!r} in {self._unread!r}"
            new = os.read(self._fd, 65536).decode()
            self.raw += new
            text_so_far = self._unfinished + new
            unfinished = _UNFINISHED.search(text_so_far)
            end = unfinished.start() if unfinished else len(text_so_far)
            self._unfinished = text_so_far[end:]
            self._unread += _STEERING.sub("", _BLANK.sub(" ", text_so_far[:end]))
        before, found, self._unread = self._unread.partition(text)
        return before + found

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def exit_code(self) -> int:
        return self._process.wait(30)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)
