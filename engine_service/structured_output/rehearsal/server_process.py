"""ServerProcess: the engine's end of the pipe to the process that forks builders."""

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
from contextlib import suppress

from engine_service.structured_output.rehearsal.messages import Order, Outcome, Setting, encode

# The code is found where this process finds it, wherever that is.
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop())
from engine_service.structured_output.rehearsal.server import main
main(sys.argv[1:])
"""


class ServerLostError(Exception):
    """The process has ended, or does not start; what it built is not at fault."""


class ServerProcess:
    """Runs while it is used. Belongs to one event loop."""

    def __init__(self, setting: Setting, start_seconds: float) -> None:
        self._setting = setting
        self._start_seconds = start_seconds
        self._numbers = itertools.count(1)
        self.num_outcomes = 0
        """That were heard: what does not answer is to be closed."""
        self._orders: dict[int, asyncio.Future[Outcome]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        return None if self._process is None else self._process.pid

    async def build(self, spec: str, processor_seconds: float, niceness: int) -> Outcome:
        """Has a builder build it; kills that if cancelled. Raises ServerLostError."""
        if self._writer is None:
            raise ServerLostError("the process does not run")
        order = Order(next(self._numbers), spec, processor_seconds, niceness)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._orders[order.number] = future
        try:
            self._send(order)
            return await future
        except asyncio.CancelledError:
            self._send(Order(order.number))
            raise
        finally:
            self._orders.pop(order.number, None)

    def close(self) -> None:
        """Ends the process, and its builders with it. It starts again when it is needed."""
        if self._listening is not None:
            self._listening.cancel()
        self._end("the process was closed")

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
                except OSError as error:
                    ours.close()
                    raise ServerLostError(str(error)) from None
            reader, writer = await asyncio.open_connection(sock=ours)
            ready = asyncio.get_running_loop().create_future()
            self._orders[0] = ready
            self._listening = asyncio.create_task(self._listen(reader, writer))
            try:
                async with asyncio.timeout(self._start_seconds):
                    await ready
            except BaseException as error:
                self.close()
                if isinstance(error, TimeoutError):
                    raise ServerLostError("the process does not start") from None
                raise
            self._writer = writer

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        fd = theirs.fileno()
        arguments = [str(fd), encode(self._setting).decode(), json.dumps(sys.path)]
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Else each thread sets addresses aside, which would count as what a build takes.
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        )

    def _send(self, order: Order) -> None:
        if self._writer is not None:
            self._writer.write(encode(order))

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                while line := await reader.readline():
                    outcome = Outcome(**json.loads(line))
                    self.num_outcomes += 1
                    future = self._orders.get(outcome.number)
                    if future is not None and not future.done():
                        future.set_result(outcome)
            self._end("the process has ended")
        finally:
            writer.close()

    def _end(self, reason: str) -> None:
        self._writer = None
        for future in self._orders.values():
            if not future.done():
                future.set_exception(ServerLostError(reason))
        self._orders.clear()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
