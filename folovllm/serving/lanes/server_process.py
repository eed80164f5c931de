"""ServerProcess: the process that forks a worker for each job, as the service sees it.

It is not the event loop that spawns it: uvloop forks, at which gRPC's handlers would stop its
threads for as long as a call runs. The standard library's Popen runs no handlers.
"""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from folovllm.serving.background_tasks import start_background
from folovllm.serving.lanes.errors import (
    OverMemoryError,
    OverTimeError,
    ServerLostError,
    WorkerEndedError,
)
from folovllm.serving.lanes.frames import ORDER, REPLY, Outcome
from folovllm.serving.lanes.limits import JobLimits
from folovllm.serving.lanes.work import Work

_Reply = tuple[Outcome, int, bytes]


class ServerProcess:
    """Runs while it is used. Belongs to one event loop."""

    def __init__(self, work: Work, limits: JobLimits) -> None:
        self._work = work
        self._limits = limits
        self._numbers = itertools.count(1)
        self.num_replies = 0
        """That were heard: what does not answer is to be closed."""
        self._replies: dict[int, asyncio.Future[_Reply]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        return None if self._process is None else self._process.pid

    async def run(self, payload: bytes, processor_seconds: float, niceness: int) -> bytes:
        """The result of a job, whose worker is killed if this is cancelled.

        Raises OverTimeError, OverMemoryError, WorkerEndedError, ServerLostError, and RuntimeError
        if the work fails.
        """
        if self._writer is None:
            raise ServerLostError("it does not run")
        number = next(self._numbers)
        self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            header = ORDER.pack(number, processor_seconds, niceness, len(payload))
            self._writer.write(header + payload)
            outcome, status, data = await self._replies[number]
        except asyncio.CancelledError:
            if self._writer is not None:
                self._writer.write(ORDER.pack(number, 0.0, 0, 0))
            raise
        finally:
            self._replies.pop(number, None)
        if outcome is Outcome.DONE:
            return data
        if outcome is Outcome.FAILED:
            raise RuntimeError(data.decode(errors="replace"))
        if status == -signal.SIGPROF:
            raise OverTimeError(f"{processor_seconds:g} s of processor time")
        if status == -signal.SIGABRT:
            raise OverMemoryError(f"{self._limits.memory_bytes // 2**20} MiB")
        raise WorkerEndedError(status)

    def close(self) -> None:
        """Ends the process, and its workers with it. It starts again when it is needed."""
        if self._listening is not None:
            self._listening.cancel()
        self._end("it was closed")

    async def start(self) -> None:
        """Starts the process unless it runs, and waits until it is ready.

        Raises ServerLostError.
        """
        async with self._starting:
            if self._writer is not None:
                return
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    self._process = self._spawn(theirs)
                except OSError as error:  # no memory, or too many processes
                    ours.close()
                    raise ServerLostError(str(error)) from None
            reader, writer = await asyncio.open_connection(sock=ours)
            ready = asyncio.get_running_loop().create_future()
            self._replies[0] = ready
            self._listening = start_background(
                self._listen(reader, writer), "replies of a lane", self._listening_ended
            )
            try:
                writer.write(ORDER.pack(0, 0.0, 0, len(self._work.setup)) + self._work.setup)
                async with asyncio.timeout(self._limits.start_seconds):
                    await ready
            except BaseException as error:
                self.close()
                if isinstance(error, TimeoutError):
                    raise ServerLostError("it does not start") from None
                raise
            self._writer = writer

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        fd, work = theirs.fileno(), self._work
        arguments = (fd, work.prepare, self._limits.memory_bytes, work.stack_bytes)
        # -P keeps the working directory, where anything may lie, off the path.
        command = (sys.executable, "-P", "-m", "folovllm.serving.lanes.fork_server")
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            pass_fds=[fd],
            process_group=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_environment(),
        )

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    header = REPLY.unpack(await reader.readexactly(REPLY.size))
                    number, outcome, status, length = header
                    data = await reader.readexactly(length)
                    self.num_replies += 1
                    future = self._replies.get(number)
                    if future is not None and not future.done():
                        future.set_result((Outcome(outcome), status, data))
        finally:
            writer.close()

    def _listening_ended(self, error: BaseException | None) -> None:
        # Nobody would hear a reply. If it was cancelled, a new process may run already.
        if not isinstance(error, asyncio.CancelledError):
            self._end("it has ended")

    def _end(self, reason: str) -> None:
        self._writer = None
        for future in self._replies.values():
            if not future.done():
                future.set_exception(ServerLostError(reason))
        self._replies.clear()
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def _environment() -> dict[str, str]:
    """A process finds the code where this one has found it."""
    folders = (str(Path(folder).absolute()) for folder in sys.path)
    # Else each thread sets addresses aside, which would count as what a job takes.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "MALLOC_ARENA_MAX": "1"}
