"""ServiceProcess: one service as a child process, from its start to the end of what it leaves.

A child has a session of its own, so that a terminal's Ctrl-C reaches only the parent, and so that
its group can be ended together. What it prints is passed on line by line, whatever becomes of who
takes the lines. It sees no FOLOVLLM_* variable: its command line says everything.
"""

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Sequence
from contextlib import suppress

from folovllm.errors import FolovError
from folovllm.serving.variables import PREFIX
from folovllm_client.launch.failure_reason import FailureReason

# Seconds for the last lines of a service that has ended, and for the stacks of one that hangs.
_LAST_LINES = 1.0
_LAST_WORDS = 2.0


class ServiceEndedError(FolovError):
    """A service ended unexpectedly; the message has its own reason."""


class ServiceProcess:
    """Runs a command, again after it has ended if asked to; `on_log` gets each line it prints."""

    def __init__(self, name: str, command: Sequence[str], on_log: Callable[[str], None]) -> None:
        self.name = name
        self._command = command
        self._on_log = on_log
        self._process: Process | None = None
        self._reason = FailureReason()
        self._relay: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts it; returns before it is ready."""
        env = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True, env=env
        )
        assert process.stdout is not None
        self._process, self._reason = process, FailureReason()
        self._relay = asyncio.create_task(self._pass_lines_on(process.stdout))

    async def ended(self) -> str:
        """Waits for its end, and returns why that came."""
        assert self._process is not None
        code = await self._process.wait()
        # What a process of its own that it left behind has to say is not waited for.
        await self._last_lines(_LAST_LINES)
        if code < 0:
            return f"{signal.Signals(-code).name} killed it"
        return self._reason.text if code and self._reason.text else f"exit code {code}"

    async def stop(self, seconds: float) -> None:
        """Asks it to end, and ends it after so many seconds."""
        if self._process is None:
            return
        self._send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            await self.abort()
        await self._last_lines(_LAST_LINES)

    async def abort(self) -> None:
        """Ends it at once; before, the stacks of its threads come as lines."""
        assert self._process is not None
        self._send(signal.SIGABRT)
        self._send(signal.SIGCONT)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _LAST_WORDS)
        self.kill()
        await self._process.wait()

    async def clear_up(self, seconds: float) -> None:
        """Waits for processes that it has left behind, and ends them after so many seconds."""
        await self._last_lines(seconds)
        self.kill()

    def kill(self) -> None:
        """Ends it, and all processes that it has started, at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                # Not its own method, which may take the exit status that asyncio waits for.
                os.kill(self._process.pid, number)

    async def _last_lines(self, seconds: float) -> None:
        """Returns when no process is left that could print, or after so many seconds."""
        if self._relay is not None:
            await asyncio.wait([self._relay], timeout=seconds)

    async def _pass_lines_on(self, stream: asyncio.StreamReader) -> None:
        pending = b""
        while chunk := await stream.read(65536):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                self._pass_on(line)
        if pending:
            self._pass_on(pending)

    def _pass_on(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        # The service would wait for ever to print if nothing were read any more.
        with suppress(Exception):
            self._reason.read(text)
            self._on_log(text)
