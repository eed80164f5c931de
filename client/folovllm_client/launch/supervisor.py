"""Supervisor: both services as child processes that live and end together.

They are ended in order: the tokenizer service drains while its engine still runs.
`folovllm_client.launch.child` ends them when the parent vanishes.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from folovllm.errors import from_rpc_error
from folovllm.serving.background_tasks import first
from folovllm.serving.channel import open_channel
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm_client.launch.liveness import Liveness
from folovllm_client.launch.service_keeper import ServiceKeeper, Upkeep
from folovllm_client.launch.service_process import ServiceEndedError, ServiceProcess

# Reconnects quickly to a server that is just starting.
_PROBE_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]
# Seconds after SIGTERM: more than the services' default grace period.
_STOP_TIMEOUT = 40.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Supervisor:
    """Starts the services of `commands`, by name, in order, and ends them in reverse.

    The tokenizer service will answer at `address`. `on_log` gets each line that a child prints,
    without its line break.
    """

    def __init__(
        self, commands: Mapping[str, Sequence[str]], address: str, on_log: Callable[[str], None]
    ) -> None:
        self._address = address
        self._services = {
            name: ServiceProcess(name, command, on_log) for name, command in commands.items()
        }
        self._upkeeps: Mapping[str, Upkeep] = {}

    async def start(self) -> None:
        """Starts them; returns before they are ready."""
        for service in self._services.values():
            await service.start()

    async def ready(self) -> None:
        """Returns when the tokenizer service is SERVING. Raises ServiceEndedError."""
        await first(until_serving(self._address), self.ended())

    async def ended(self) -> None:
        """Waits for a service to end, and then raises ServiceEndedError."""
        await first(*map(self._end_of, self._services.values()))

    async def keep_running(
        self, upkeeps: Mapping[str, Upkeep], on_restart: Callable[[str], None]
    ) -> None:
        """Starts each service again that ends or hangs; `upkeeps` has each by name.

        `on_restart` gets a line about each start. Raises ServiceEndedError if one does not settle.
        """
        self._upkeeps = upkeeps
        keepers = [
            ServiceKeeper(service, upkeeps[name], on_restart)
            for name, service in self._services.items()
        ]
        await first(*(keeper.keep() for keeper in keepers))

    async def stop(self) -> None:
        """Ends the tokenizer service, then the engine service; each finishes its streams first.

        One that hangs meanwhile is ended, so that the other need not wait for it.
        """
        watched = self._services.keys() & self._upkeeps
        watches = [asyncio.create_task(self._end_silent(name)) for name in watched]
        try:
            for name, service in reversed(self._services.items()):
                upkeep = self._upkeeps.get(name)
                await service.stop(upkeep.stop_timeout if upkeep else _STOP_TIMEOUT)
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _end_silent(self, name: str) -> None:
        upkeep = self._upkeeps[name]
        await Liveness(upkeep.address, has_started=True).until_silent(upkeep.hang_timeout)
        await self._services[name].abort()

    def kill(self) -> None:
        """Ends both at once."""
        for service in self._services.values():
            service.kill()

    async def _end_of(self, service: ServiceProcess) -> None:
        raise ServiceEndedError(f"the {service.name} ended: {await service.ended()}")


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
        await first(body(), stop_requested.wait())
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
