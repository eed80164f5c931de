"""ChildProcess: one spawned process that does jobs, as the service sees it.

It is not the event loop that spawns it: uvloop forks, at which gRPC's handlers would stop its
threads for as long as a call runs. The standard library's Popen runs no handlers.
"""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from folovllm.errors import FolovError, UnavailableError
from folovllm.serving.lanes.frames import JOB, REPLY, SETUP, Outcome
from folovllm.serving.lanes.limits import ENDED_BY
from folovllm.serving.lanes.work import Work

# Whoever streams goes first: the children take what is left of the processor, in good part.
_NICENESS = 5
# Seconds that a child gets to load what its work needs, on a busy machine.
_START_TIMEOUT = 60.0


class OverTimeError(FolovError):
    """A job took more processor time than it may."""


class OverMemoryError(FolovError):
    """A job took more memory than it may."""


class ChildProcess:
    """A child, which does one job at a time. Belongs to one event loop."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, work: Work) -> "ChildProcess":
        """Spawns a child and waits until it has loaded its work. Raises UnavailableError."""
        ours, its = socket.socketpair()
        try:
            with its:
                process = _spawn(work, its)
        except OSError as error:  # no memory, or too many processes
            ours.close()
            raise UnavailableError(f"no process can be started: {error.strerror}") from None
        child = cls(process, *await asyncio.open_connection(sock=ours))
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await child._exchange(SETUP.pack(work.max_bytes, len(work.setup)) + work.setup)
        except (TimeoutError, _EndedError) as error:
            await child.end()
            raise UnavailableError(f"a process that was started does not begin: {error}") from None
        except asyncio.CancelledError:
            await child.end()
            raise
        return child

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def run(self, payload: bytes, processor_seconds: float, wall_seconds: float) -> bytes:
        """The result of a job.

        Raises OverTimeError and OverMemoryError if it takes more than it may, UnavailableError if
        the child ends for another reason or does not get to it within `wall_seconds`, and
        RuntimeError if the work fails. Unless the child is `alive` afterwards, another one has to
        take its place.
        """
        try:
            async with asyncio.timeout(wall_seconds):
                outcome, data = await self._exchange(
                    JOB.pack(processor_seconds, len(payload)) + payload
                )
        except TimeoutError:
            self._kill()
            raise UnavailableError("the machine is too busy: the work did not end") from None
        except _EndedError as ended:
            if ended.status == -ENDED_BY:
                raise OverTimeError(_over_time(processor_seconds)) from None
            raise UnavailableError(f"a process has ended at its work: {ended.status}") from None
        match outcome:
            case Outcome.OVER_TIME:
                raise OverTimeError(_over_time(processor_seconds))
            case Outcome.OVER_MEMORY:
                raise OverMemoryError("it takes too much memory")
            case Outcome.FAILED:
                raise RuntimeError(data.decode(errors="replace"))
        return data

    @property
    def alive(self) -> bool:
        """Whether it can do another job."""
        return self._process.poll() is None

    async def end(self) -> None:
        """Ends it at once, and waits until it has ended."""
        self._kill()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
        await asyncio.to_thread(self._process.wait)

    def _kill(self) -> None:
        if self.alive:
            self._process.kill()

    async def _exchange(self, frame: bytes) -> tuple[Outcome, bytes]:
        """Sends a frame and waits for the reply. Raises _EndedError."""
        try:
            self._writer.write(frame)
            await self._writer.drain()
            number, length = REPLY.unpack(await self._reader.readexactly(REPLY.size))
            return Outcome(number), await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise _EndedError(await asyncio.to_thread(self._process.wait)) from None


def _spawn(work: Work, jobs: socket.socket) -> "subprocess.Popen[bytes]":
    module = "folovllm.serving.lanes.job_server"
    # -P keeps the working directory, where anything may lie, off the path.
    command = [sys.executable, "-P", "-m", module, str(_NICENESS), work.prepare]
    return subprocess.Popen(command, stdin=jobs.fileno(), stdout=jobs.fileno(), env=_environment())


def _environment() -> dict[str, str]:
    """A child finds the code where this process has found it."""
    folders = (str(Path(folder).absolute()) for folder in sys.path)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


class _EndedError(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


def _over_time(seconds: float) -> str:
    return f"it takes more than {seconds:g} s of processor time"
