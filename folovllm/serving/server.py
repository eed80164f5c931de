"""GrpcServer: the life of one service's process, from bind to drain.

    bind ─▶ start (NOT_SERVING) ─▶ set_serving(True) ─▶ wait_for_stop ─▶ drain

Draining: health becomes NOT_SERVING, new streams are refused with UNAVAILABLE, running streams
finish within the grace period, then the server stops, at once if there is none. A second signal
ends the grace period.
"""

import asyncio
import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass

import click
import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from folovllm.serving.active_calls import ActiveCalls
from folovllm.serving.args import POSITIVE, Seconds, check, option
from folovllm.serving.background_tasks import first
from folovllm.serving.calls.interceptor import CallInterceptor
from folovllm.serving.channel import MAX_CALLS, SERVER_OPTIONS
from folovllm.serving.health.service import Health
from folovllm.serving.ports import allow_open_files, host_and_port, require_free_port
from folovllm.serving.reflection import enable_reflection

# Seconds for calls that are on their way when the last stream has ended.
_LAST_ARRIVALS = 0.1
# Seconds for the last messages of streams that have just ended to reach their clients.
_LAST_GRACE = 1.0
# Open files besides connections of callers: libraries, pipes, connections to engines.
_OTHER_FILES = 256

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where and how a service listens."""

    host: str = option(
        "127.0.0.1", "Address to bind; 0.0.0.0 for all.", own=True, metavar="ADDRESS"
    )
    port: int = option(
        0, "Port to bind; 0 for any.", own=True, type=click.IntRange(0, 65535), metavar="PORT"
    )
    grace_period: float = option(
        30.0,
        "Time that running streams get to finish after SIGTERM.",
        own=True,
        type=Seconds(0),
        metavar="SECONDS",
    )
    hang_timeout: float = option(
        15.0,
        "Time without a sign of life after which `folovllm serve`, or the parent of --workers, "
        "replaces the process.",
        own=True,
        type=Seconds(3),
        metavar="SECONDS",
    )
    max_connections: int = option(
        4096,
        "Max open connections; further ones are closed at once.",
        own=True,
        type=POSITIVE,
        metavar="N",
    )
    reflection: bool = option(
        True, "Do not serve the schema to tools such as grpcurl.", "--no-reflection", own=True
    )
    allow_compression: bool = option(
        False,
        "Take compressed messages too. A small one may then be a large one, up to 4 MiB.",
        own=True,
    )
    share_port: bool = False
    """Share the port with other processes that do the same; it must be reserved."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def stop_timeout(self) -> float:
        """Seconds after SIGTERM in which it has ended, unless it hangs."""
        return self.grace_period + 5 * _LAST_GRACE


class GrpcServer:
    """One grpc.aio server with health, reflection, interceptor and drain."""

    def __init__(
        self,
        config: ServerConfig,
        service_name: str,
        options: Sequence[tuple[str, int]] = SERVER_OPTIONS,
    ) -> None:
        self._config = config
        self._service_name = service_name
        self.active_calls = ActiveCalls()
        # By default gRPC would let a second server share the port silently.
        share = ("grpc.so_reuseport", int(config.share_port))
        algorithms = ("grpc.compression_enabled_algorithms_bitset", _compressions(config))
        connections = ("grpc.max_allowed_incoming_connections", config.max_connections)
        self.grpc = grpc.aio.server(
            interceptors=[CallInterceptor(self.active_calls)],
            options=[*options, share, algorithms, connections],
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        self._health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        if config.reflection:
            enable_reflection(self.grpc, [service_name, health.SERVICE_NAME])
        self._stop = asyncio.Event()
        self._hard_stop = asyncio.Event()

    def bind(self) -> int:
        """Binds the port and returns its number. Raises ConfigError if it is in use."""
        host, port = self._config.host, self._config.port
        if not self._config.share_port:
            require_free_port(host, port)
        if not allow_open_files(self._config.max_connections + _OTHER_FILES):
            log.warning(
                "the system's limit on open files (ulimit -n) is below --max-connections",
                max_connections=self._config.max_connections,
            )
        return self.grpc.add_insecure_port(host_and_port(host, port))

    async def start(self) -> None:
        """Begins to answer, with health NOT_SERVING, and to handle SIGTERM and SIGINT."""
        await self.set_serving(False)
        await self.grpc.start()
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, self.request_stop)

    async def set_serving(self, serving: bool) -> None:
        """Sets the health of the service and of the whole server."""
        status = health_pb2.HealthCheckResponse
        value = status.SERVING if serving else status.NOT_SERVING
        for name in ("", self._service_name):
            await self._health.set(name, value)

    def request_stop(self) -> None:
        """Requests a drain; the second time, an immediate end."""
        if self._stop.is_set():
            self._hard_stop.set()
        self._stop.set()

    async def wait_for_stop(self) -> None:
        """Returns when a stop was requested."""
        await self._stop.wait()

    @property
    def ends_at_once(self) -> bool:
        """Whether a stop was requested twice."""
        return self._hard_stop.is_set()

    async def drain(self, max_grace: float = math.inf) -> None:
        """Ends the server as the module's docstring says, in no more than `max_grace` seconds."""
        await self._health.enter_graceful_shutdown()
        log.info("draining", calls=len(self.active_calls))
        grace_period = min(self._config.grace_period, max_grace)
        await first(self.active_calls.drain(grace_period), self._hard_stop.wait())
        # What has arrived by now is refused with UNAVAILABLE; gRPC's stop would cancel it.
        await first(asyncio.sleep(_LAST_ARRIVALS), self._hard_stop.wait())
        self._health.end_watches()
        await self.grpc.stop(grace=_LAST_GRACE)
        # Their tasks end in the loop's next round; if it ended first, each would print a traceback.
        await asyncio.sleep(0)
        log.info("stopped", cut_off=len(self.active_calls))


def _compressions(config: ServerConfig) -> int:
    """The bits of the algorithms that are enabled; the first is none.

    gRPC refuses calls that use another one with UNIMPLEMENTED. Of a compressed message it tells
    nobody the size before it has made it large, and a limit on how much larger there is not.
    """
    taken = grpc.Compression if config.allow_compression else [grpc.Compression.NoCompression]
    return sum(1 << int(algorithm) for algorithm in taken)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of a service: uvloop's, which is faster, or asyncio's if that is missing."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
