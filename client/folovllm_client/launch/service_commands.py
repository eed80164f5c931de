"""How the two services are started: their command lines, their ports, what must be installed."""

import importlib.util
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from folovllm import version
from folovllm.errors import ConfigError

LOOPBACK = "127.0.0.1"

_CHILD = Path(__file__).with_name("child.py")
# Where the services lie: beside `folovllm`, with which they are one distribution.
_ROOT = Path(version.__file__).resolve().parents[1]
# What makes a client of this installation when only the client is installed.
_NEEDED = ("torch", "safetensors", "tokenizers")
_ANY_ADDRESS = {"0.0.0.0": LOOPBACK, "[::]": "[::1]"}


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `folovllm serve` starts; None leaves a setting to the service's own default."""

    host: str = LOOPBACK
    """Address on which clients are answered; the engine is reached on the loopback alone."""
    port: int = 50051
    """Port of the tokenizer service."""
    engine_port: int = 50052
    """Port of the engine service."""
    model: str | None = None
    """A model's folder or hub id; None is the embedded one."""
    device: str | None = None
    """cpu, cuda or cuda:N."""
    dtype: str | None = None
    """float32, bfloat16 or float16."""
    max_model_len: int | None = None
    """Most tokens of prompt and completion together."""
    deterministic: bool = False
    """Give a request the same tokens whatever is computed beside it."""
    quantization: str | None = None
    """none, int8 or int4, of the weights."""
    max_num_seqs: int | None = None
    """Most sequences that run at once."""
    speculation: str | None = None
    """auto, none or ngram: guess tokens that repeat earlier ones."""
    log_format: str | None = None
    """text or json."""

    @property
    def engine_address(self) -> str:
        """Where the engine service is reached."""
        return f"{LOOPBACK}:{self.engine_port}"

    @property
    def address(self) -> str:
        """Where the tokenizer service is reached from this machine."""
        return f"{_ANY_ADDRESS.get(self.host, self.host)}:{self.port}"


def engine_command(options: ServeOptions) -> list[str]:
    """The command line of the engine service."""
    return [
        *_module("engine_service"),
        *("--host", LOOPBACK, "--port", str(options.engine_port)),
        *_flag("--model", options.model),
        *_flag("--device", options.device),
        *_flag("--dtype", options.dtype),
        *_flag("--max-model-len", options.max_model_len),
        *(["--deterministic"] if options.deterministic else []),
        *_flag("--quantization", options.quantization),
        *_flag("--max-num-seqs", options.max_num_seqs),
        *_flag("--speculation", options.speculation),
        *_flag("--log-format", options.log_format),
    ]


def tokenizer_command(options: ServeOptions) -> list[str]:
    """The command line of the tokenizer service."""
    return [
        *_module("tokenizer_service"),
        *("--host", options.host, "--port", str(options.port)),
        *("--engine", options.engine_address),
        *_flag("--model", options.model),
        *_flag("--log-format", options.log_format),
    ]


def require_services() -> None:
    """Raises ConfigError where only the client is installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the services need {', '.join(missing)}; install them with: "
            "pip install 'folovllm[all]'"
        )


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody uses now, each another one."""
    probes = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _module(name: str) -> list[str]:
    return [sys.executable, "-P", str(_CHILD), str(_ROOT), name]


def _flag(name: str, value: str | int | None) -> list[str]:
    return [] if value is None else [name, str(value)]
