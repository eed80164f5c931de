"""What the tokenizer service is started with, and its command line."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from folovllm.errors import ConfigError
from folovllm.serving.args import add_server_arguments, parse_with_environment, server_config
from folovllm.serving.logs import LogFormat
from folovllm.serving.server import ServerConfig

DEFAULT_PORT = 50051
DEFAULT_ENGINES = ("127.0.0.1:50052",)
DEFAULT_MAX_PROMPT_BYTES = 1024 * 1024

_ADDRESS = re.compile(r"\S+:[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class TokenizerServiceConfig:
    """Everything the service is built from. Raises ConfigError."""

    model: str | None = None
    """A folder or a hub id, as the engines have it; None is the embedded demo model."""
    engines: tuple[str, ...] = DEFAULT_ENGINES
    """HOST:PORT of each engine."""
    max_prompt_bytes: int = DEFAULT_MAX_PROMPT_BYTES
    """Longest text, in bytes of UTF-8, that is encoded."""
    workers: int = 1
    """Processes that share the port; a connection stays with the one that took it."""
    server: ServerConfig = field(default_factory=lambda: ServerConfig(port=DEFAULT_PORT))
    """Where and how it listens."""
    log_format: LogFormat = "text"
    """Lines for people, or JSON for machines."""

    def __post_init__(self) -> None:
        if not self.engines:
            raise ConfigError("name at least one engine with --engine HOST:PORT")
        for address in self.engines:
            if not _ADDRESS.fullmatch(address):
                raise ConfigError(f"--engine must be HOST:PORT, got {address!r}")
        if self.max_prompt_bytes < 1:
            raise ConfigError(f"--max-prompt-bytes must be at least 1, got {self.max_prompt_bytes}")
        if self.workers < 1:
            raise ConfigError(f"--workers must be at least 1, got {self.workers}")


def parse_args(
    argv: Sequence[str], environ: Mapping[str, str] | None = None
) -> TokenizerServiceConfig:
    """Reads the command line, and the environment (os.environ for None) for what it leaves out.

    Raises ConfigError; ends the process with status 2 where argparse itself refuses a value.
    """
    namespace = parse_with_environment(_parser(), argv, environ)
    return TokenizerServiceConfig(
        model=namespace.model,
        engines=tuple(namespace.engine or DEFAULT_ENGINES),
        max_prompt_bytes=namespace.max_prompt_bytes,
        workers=namespace.workers,
        server=server_config(namespace),
        log_format=namespace.log_format,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tokenizer_service",
        description="Serves folovllm.v1.TokenizerService: text in, streamed text out.",
        epilog="Each flag may come from the environment, as --max-prompt-bytes from "
        "FOLOVLLM_MAX_PROMPT_BYTES.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", help="folder or hub id of the model (the embedded one)")
    parser.add_argument(
        "--engine",
        action="append",
        metavar="HOST:PORT",
        help=f"an engine service; may be repeated ({', '.join(DEFAULT_ENGINES)})",
    )
    parser.add_argument(
        "--max-prompt-bytes",
        type=int,
        default=DEFAULT_MAX_PROMPT_BYTES,
        metavar="N",
        help="longest text in bytes (%(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the port, one for each core to use (%(default)s)",
    )
    add_server_arguments(parser, DEFAULT_PORT)
    return parser
