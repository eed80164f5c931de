"""Both services as real processes on free ports of the loopback interface."""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from folovllm.serving.channel import CLIENT_OPTIONS

ENGINE_FLAGS = ("--dtype", "float32", "--device", "cpu")
NO_CHANGES: Mapping[str, str] = MappingProxyType({})


# Below those that systems hand out by themselves: a service binds its port seconds after it was
# chosen, or once more after it was killed, and other tests open sockets all the time.
_PORTS = range(20_000, 32_768)


def free_port() -> int:
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class ServiceProcess:
    """One service; `log` holds what it wrote."""

    def __init__(
        self,
        module: str,
        *flags: str,
        port: int | None = None,
        launcher: Sequence[str] = (),
        stderr: int | None = None,
        environment: Mapping[str, str] = NO_CHANGES,
    ) -> None:
        """`launcher` is a module, with its arguments, that starts the service's module.

        What it writes goes to the descriptor `stderr` instead of the log, if that is given.
        """
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - closed by kill
        command = [sys.executable, "-m", *launcher, module, "--port", str(self.port), *flags]
        # A crash tells where.
        env = {**os.environ, "PYTHONFAULTHANDLER": "1", **environment}
        self.process = subprocess.Popen(
            command, stderr=self._log if stderr is None else stderr, env=env
        )

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def wait_serving(self, serving: bool = True, timeout: float = 100) -> None:
        """Returns when health says so; fails with the log where it never does."""
        with grpc.insecure_channel(self.address, CLIENT_OPTIONS) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), timeout=timeout, wait_for_ready=True
            )
            try:
                for response in watch:
                    if (response.status == health_pb2.HealthCheckResponse.SERVING) is serving:
                        watch.cancel()
                        return
            except grpc.RpcError as error:
                raise AssertionError(f"{error.details()}\n{self.log}") from None

    def memory(self) -> int:
        """Bytes of resident memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=60)
        self._log.close()


@contextmanager
def running(module: str, *flags: str, port: int | None = None) -> Iterator[ServiceProcess]:
    service = ServiceProcess(module, *flags, port=port)
    try:
        yield service
    finally:
        service.kill()


@contextmanager
def both_services(*engine_flags: str) -> Iterator[tuple[ServiceProcess, ServiceProcess]]:
    """The engine on the embedded model in float32, and a tokenizer service that serves from it."""
    with (
        running("engine_service", *ENGINE_FLAGS, *engine_flags) as engine,
        running("tokenizer_service", "--engine", engine.address) as tokenizer,
    ):
        tokenizer.wait_serving()
        yield engine, tokenizer
