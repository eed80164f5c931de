"""Service: one service's process with a control inside, as an event loop uses it."""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from chaos.processes.descendants import children_of, kill_all
from support.processes.service_processes import NO_CHANGES, ServiceProcess

ROOT = Path(__file__).parents[3]
_TEXT_LIMIT = 2**22


class ControlError(Exception):
    """A command of the control failed in the service."""


class Service:
    """Started when made. Its control listens once the process runs; `port` may be given again."""

    def __init__(
        self,
        module: str,
        *flags: str,
        fake: bool = False,
        port: int | None = None,
        stderr: int | None = None,
        checkout: Path = ROOT,
        environment: Mapping[str, str] = NO_CHANGES,
    ) -> None:
        """`checkout` is the folder whose code serves; `fake` is the launcher's."""
        self._folder = tempfile.TemporaryDirectory(prefix="chaos-")
        self._socket = Path(self._folder.name) / "control"
        self._log = Path(self._folder.name) / "log"
        # ServiceProcess's own log shares its position with the process that writes to it.
        log = os.open(self._log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        paths = (checkout, checkout / "client", ROOT / "tests")
        self._process = ServiceProcess(
            module,
            *flags,
            port=port,
            launcher=["chaos.inside.launcher", str(self._socket), *(["--fake"] if fake else [])],
            stderr=log if stderr is None else stderr,
            environment={
                "PYTHONPATH": os.pathsep.join(map(str, paths)),
                "PYTHONSAFEPATH": "1",
                **environment,
            },
        )
        os.close(log)
        self.address = self._process.address
        self.port = self._process.port

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.process.pid

    @property
    def log(self) -> str:
        """What it has written, unless that went elsewhere."""
        return self._log.read_text(errors="replace")

    def log_after(self, size: int) -> str:
        """What it has written after so many bytes."""
        with self._log.open("rb") as file:
            file.seek(size)
            return file.read().decode(errors="replace")

    @property
    def log_size(self) -> int:
        """How many bytes it has written."""
        return self._log.stat().st_size

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number if one ended it."""
        return self._process.process.poll()

    async def wait_serving(self, serving: bool = True, within: float = 100) -> None:
        """Returns when health says so. Raises AssertionError with the log."""
        await asyncio.to_thread(self._process.wait_serving, serving, within)

    async def wait_ended(self, within: float) -> int | None:
        """The exit status, or None if it still runs after so many seconds."""
        deadline = time.monotonic() + within
        while self.exit_code is None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return self.exit_code

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if it runs."""
        with suppress(ProcessLookupError):
            self._process.process.send_signal(number)

    async def close(self) -> None:
        """Kills it and all that it has started, whatever state they are in."""
        await asyncio.to_thread(self._kill)
        self._folder.cleanup()

    def _kill(self) -> None:
        started = children_of(self.pid)
        self._process.kill()
        kill_all(started)

    async def ask(self, command: str, *arguments: object, within: float = 10.0) -> Any:
        """Gives the control a command and returns its result. Raises ControlError."""
        try:
            answer = await self._answer(json.dumps([command, *arguments]).encode() + b"\n", within)
        except (OSError, TimeoutError) as error:
            raise ControlError(f"{command}: {error!r}") from None
        if "error" in answer:
            raise ControlError(f"{command}: {answer['error']}")
        return answer["result"]

    async def _answer(self, line: bytes, within: float) -> Any:
        async with asyncio.timeout(within):
            reader, writer = await asyncio.open_unix_connection(
                str(self._socket), limit=_TEXT_LIMIT
            )
            try:
                writer.write(line)
                return json.loads(await reader.readline() or b'{"error": "it has ended"}')
            finally:
                writer.close()

    def memory(self) -> int:
        """Bytes of resident memory."""
        return self._process.memory()

    def cpu_seconds(self) -> float:
        """Processor time, used so far."""
        return self._process.cpu_seconds()

    def num_descriptors(self) -> int:
        """Open files and sockets."""
        return int(psutil.Process(self.pid).num_fds())

    def num_threads(self) -> int:
        """Threads."""
        return int(psutil.Process(self.pid).num_threads())


def command_of(module: str, *arguments: str) -> list[str]:
    """What runs a module of this checkout without the launcher."""
    return [sys.executable, "-m", module, *arguments]
