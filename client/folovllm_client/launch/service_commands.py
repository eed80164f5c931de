"""How the two services are started: their command lines, their ports, what must be installed."""

import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from folovllm import version
from folovllm.errors import ConfigError
from folovllm.installation.parts import missing_line
from folovllm.serving.ports import host_and_port
from folovllm_client.launch.service_keeper import Upkeep

LOOPBACK = "127.0.0.1"

_CHILD = Path(__file__).with_name("child.py")
# The services are beside `folovllm`, in the same distribution.
_ROOT = Path(version.__file__).resolve().parents[1]
_ANY_ADDRESS = {"0.0.0.0": LOOPBACK, "[::]": "::1", "::": "::1"}


class ServeOptions:
    """What both services are started with."""

    def __init__(self, **values: Any) -> None:
        """Takes what `folovllm serve` does, by the names of its flags; 0 is any free port.

        Raises ConfigError for an invalid value, TypeError for a name that no flag has.
        """
        # Needs the packages of the services.
        from folovllm_client.launch.serve_flags import configurations

        more_engines = values.pop("engine", ())
        tokenizer, engine = configurations(values)
        ports = (tokenizer.server.port, engine.server.port)
        port, engine_port = (port or free for port, free in zip(ports, free_ports(2), strict=True))
        self.engine = replace(engine, server=replace(engine.server, port=engine_port))
        """The engine service's configuration."""
        self.tokenizer = replace(
            tokenizer,
            server=replace(tokenizer.server, port=port),
            engines=(self.engine_address, *more_engines),
        )
        """The tokenizer service's."""

    @classmethod
    def from_environment(cls, **values: Any) -> "ServeOptions":
        """Takes what `values` leave open from the environment, as `folovllm serve` does.

        Raises click.UsageError for a variable's invalid value, and as the constructor does.
        """
        from folovllm_client.launch.serve_flags import serve_flags

        command = click.Command("serve", params=[flag.option for flag in serve_flags()])
        return cls(**command.make_context("serve", []).params | values)

    @property
    def model(self) -> str | None:
        """The model's folder or hub id; None is the embedded one."""
        return self.tokenizer.model

    @property
    def engine_address(self) -> str:
        """Where the engine service is reached from this machine."""
        return _reached_at(self.engine.server.host, self.engine.server.port)

    @property
    def address(self) -> str:
        """Where the tokenizer service is reached from this machine."""
        return _reached_at(self.tokenizer.server.host, self.tokenizer.server.port)


def service_commands(options: ServeOptions) -> dict[str, list[str]]:
    """The command lines of the services by what they are called, in the order of their start.

    They say everything that differs from the services' defaults: Supervisor hides our variables.
    """
    from engine_service.config import EngineServiceConfig
    from folovllm.serving.args import arguments
    from tokenizer_service.config import TokenizerServiceConfig

    engine = arguments(options.engine, EngineServiceConfig())
    tokenizer = arguments(options.tokenizer, TokenizerServiceConfig())
    return {
        "engine service": [*_module("engine_service"), *engine],
        "tokenizer service": [*_module("tokenizer_service"), *tokenizer],
    }


def upkeeps(options: ServeOptions) -> dict[str, Upkeep]:
    """How the services are watched, by the same names."""
    watched = {
        "engine service": (options.engine_address, options.engine.server),
        "tokenizer service": (options.address, options.tokenizer.server),
    }
    return {
        name: Upkeep(address, server.hang_timeout, server.stop_timeout)
        for name, (address, server) in watched.items()
    }


def require_services() -> None:
    """Raises ConfigError if packages are missing, as where only the client is installed."""
    if line := missing_line("all"):
        raise ConfigError(line)


def free_ports(count: int) -> list[int]:
    """Distinct ports of the loopback that are free now."""
    probes = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _reached_at(host: str, port: int) -> str:
    return host_and_port(_ANY_ADDRESS.get(host, host), port)


def _module(name: str) -> list[str]:
    return [sys.executable, "-P", str(_CHILD), str(_ROOT), name]
