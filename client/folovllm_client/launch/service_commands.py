"""How the two services are started: their command lines, their ports, what must be installed."""

import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from folovllm import version
from folovllm.errors import ConfigError
from folovllm.installation.parts import missing_line
from folovllm.serving.args import option

LOOPBACK = "127.0.0.1"

_PORT = click.IntRange(1, 65535)
_CHILD = Path(__file__).with_name("child.py")
# The services are beside `folovllm`, in the same distribution.
_ROOT = Path(version.__file__).resolve().parents[1]
_ANY_ADDRESS = {"0.0.0.0": LOOPBACK, "[::]": "[::1]"}


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of `folovllm serve`; None is the service's own default."""

    host: str = option(LOOPBACK, "Where clients are answered; 0.0.0.0 for all.", metavar="ADDRESS")
    port: int = option(50051, "Port of the tokenizer service.", type=_PORT, metavar="PORT")
    engine_port: int = option(
        50052, "Port of the engine service, on the loopback.", type=_PORT, metavar="PORT"
    )
    model: str | None = option(
        None, "A model's folder or hub id. Default: the embedded one.", metavar="PATH_OR_ID"
    )
    device: str | None = option(None, "cpu, cuda or cuda:N. Default: auto.", metavar="DEVICE")
    dtype: str | None = option(
        None,
        "Of the weights. Default: auto.",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    )
    max_model_len: int | None = option(None, "Max tokens of prompt and completion.", metavar="N")
    max_num_seqs: int | None = option(None, "Max sequences that run at once.", metavar="N")
    deterministic: bool = option(False, "The same tokens in any batch; slower.")
    quantization: str | None = option(
        None, "Of the weights, on a CPU.", type=click.Choice(["none", "int8", "int4"])
    )
    speculation: str | None = option(
        None,
        "Guess tokens that repeat earlier ones. Default: auto, on a CPU.",
        type=click.Choice(["auto", "none", "ngram"]),
    )
    log_format: str | None = option(None, "Default: text.", type=click.Choice(["text", "json"]))

    @property
    def engine_address(self) -> str:
        """Where the engine service is reached."""
        return f"{LOOPBACK}:{self.engine_port}"

    @property
    def address(self) -> str:
        """Where the tokenizer service is reached from this machine."""
        return f"{_ANY_ADDRESS.get(self.host, self.host)}:{self.port}"


def service_commands(options: ServeOptions) -> dict[str, list[str]]:
    """The command lines of the services by what they are called, in the order of their start."""
    names = ("model", "device", "dtype", "max_model_len", "deterministic", "quantization")
    return {
        "engine service": [
            *_module("engine_service", LOOPBACK, options.engine_port),
            *_flags(options, *names, "max_num_seqs", "speculation", "log_format"),
        ],
        "tokenizer service": [
            *_module("tokenizer_service", options.host, options.port),
            *("--engine", options.engine_address),
            *_flags(options, "model", "log_format"),
        ],
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


def _module(name: str, host: str, port: int) -> list[str]:
    command = [sys.executable, "-P", str(_CHILD), str(_ROOT), name]
    return [*command, "--host", host, "--port", str(port)]


def _flags(options: ServeOptions, *names: str) -> Iterator[str]:
    """The flags of the options that are set."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value is not False:
            yield f"--{name.replace('_', '-')}"
            if value is not True:
                yield str(value)
