"""Supervisor: both services as child processes that live and end together.

Children have sessions of their own, so that a terminal's Ctrl-C reaches only the parent, which then
ends them in order: the tokenizer service drains while its engine still runs. What they print is
passed on line by line. `folovllm_client.launch.child` ends them when the parent vanishes. They see
no FOLOVLLM_* variable: their command lines say everything.
"""

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from folovllm.errors import FolovError, from_rpc_error
from folovllm.serving.channel import open_channel
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.variables import PREFIX
from folovllm_client.launch.failure_reason import FailureReason

# Reconnects quickly to a server that is just starting.
_PROBE_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]
# Seconds for the last lines of a service that has ended.
_LAST_LINES = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ServiceEndedError(FolovError):
    """One of the services ended unexpectedly; the message has the service's own reason."""


class Supervisor:
    """Starts the services of `commands`, by name, in order, and ends them in reverse.

    The tokenizer service will answer at `address`. `on_log` gets each line that a child prints,
    without its line break.
    """

    def __init__(
        self, commands: Mapping[str, Sequence[str]], address: str, on_log: Callable[[str], None]
    ) -> None:
        self._commands = commands
        self._address = address
        self._on_log = on_log
        self._processes: dict[str, Process] = {}
        self._reasons = {name: FailureReason() for name in commands}
        self._relays: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Starts them; returns before they are ready."""
        env = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
        for name, command in self._commands.items():
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True, env=env
            )
            assert process.stdout is not None
            self._processes[name] = process
            relay = self._relay(process.stdout, self._reasons[name])
            self._relays[name] = asyncio.create_task(relay)

    async def ready(self) -> None:
        """Returns when the tokenizer service is SERVING. Raises ServiceEndedError."""
        await _first(until_serving(self._address), self.ended())

    async def ended(self) -> None:
        """Waits for a service to end, and then raises ServiceEndedError."""
        await _first(*(self._end_of(name) for name in self._processes))

    async def stop(self) -> None:
        """Ends the tokenizer service, then the engine service; each finishes its streams first."""
        for process in reversed(self._processes.values()):
            _send(process, signal.SIGTERM)
            await process.wait()
        await asyncio.gather(*self._relays.values())

    def kill(self) -> None:
        """Ends both at once."""
        for process in self._processes.values():
            _send(process, signal.SIGKILL)

    async def _end_of(self, name: str) -> None:
        code = await self._processes[name].wait()
        # What a process of its own that it left behind has to say is not waited for.
        await asyncio.wait([self._relays[name]], timeout=_LAST_LINES)
        reason = self._reasons[name].text
        if code < 0:
            reason = f"{signal.Signals(-code).name} killed it"
        elif code == 0 or reason is None:
            reason = f"exit code {code}"
        raise ServiceEndedError(f"the {name} ended: {reason}")

    async def _relay(self, stream: asyncio.StreamReader, reason: FailureReason) -> None:
        pending = b""
        while chunk := await stream.read(65536):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                self._pass_on(line, reason)
        if pending:
            self._pass_on(pending, reason)

    def _pass_on(self, line: bytes, reason: FailureReason) -> None:
        text = line.decode(errors="replace")
        reason.read(text)
        self._on_log(text)


async def run_services(
    services: Supervisor, body: Callable[[], Coroutine[None, None, None]]
) -> bool:
    """Starts the services, awaits `body` and stops them; False if a signal ended it before.

    SIGINT and SIGTERM request the stop; the second one ends both services at once.
    """
    stop_requested = asyncio.Event()

    def on_signal() -> None:
        if stop_requested.is_set():
            services.kill()
        stop_requested.set()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        await services.start()
        await _first(body(), stop_requested.wait())
    finally:
        await services.stop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    return not stop_requested.is_set()


async def until_serving(address: str) -> None:
    """Returns when the tokenizer service at `address` is SERVING, however late it comes up.

    Raises FolovError if something else answers there.
    """
    request = health_pb2.HealthCheckRequest(service=TOKENIZER_SERVICE)
    async with open_channel(address, options=_PROBE_OPTIONS) as channel:
        while True:
            # Waits for a connection, so that a server that is not up yet costs no retries.
            watch = health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True)
            try:
                async for response in watch:
                    if response.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise from_rpc_error(error) from error
            finally:
                watch.cancel()


async def _first(*awaitables: Awaitable[object]) -> None:
    """Waits for the first to end, cancels the others, and raises what the first one raised."""
    tasks = [*map(asyncio.ensure_future, awaitables)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _send(process: Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)
