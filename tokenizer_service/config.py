"""What the tokenizer service is started with, and its command line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from folovllm.errors import ConfigError
from folovllm.serving.address import DEFAULT_ENGINE_PORT, DEFAULT_PORT, check_address
from folovllm.serving.args import POSITIVE, Seconds, check, option, parse
from folovllm.serving.lanes.limits import MAX_SECONDS
from folovllm.serving.logs import LogConfig
from folovllm.serving.server import ServerConfig

DEFAULT_MAX_PROMPT_BYTES = 1024 * 1024

_FINGERPRINT = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TokenizerServiceConfig:
    """Everything the service is built from. Raises ConfigError."""

    model: str | None = option(
        None,
        "A model's folder or hub id, as the engines have it. Default: the embedded one.",
        metavar="PATH_OR_ID",
    )
    engines: tuple[str, ...] = option(
        (f"127.0.0.1:{DEFAULT_ENGINE_PORT}",),
        "An engine service; may be repeated.",
        "--engine",
        metavar="HOST:PORT",
    )
    expect_fingerprint: str = option(
        "",
        "Send requests only to engines of this replica fingerprint, which `folovllm info` shows. "
        "Default: that of the first engine.",
        metavar="HEX",
    )
    migrate: str = option(
        "exact",
        "Where a stream with output goes on when its engine is lost: at one that gives it the "
        "tokens of an undisturbed run (exact), at any (any), or nowhere (never).",
        type=click.Choice(["exact", "any", "never"]),
        metavar="HOW",
    )
    max_prompt_bytes: int = option(
        DEFAULT_MAX_PROMPT_BYTES, "Max bytes of a text in UTF-8.", type=POSITIVE, metavar="N"
    )
    max_rendering_seconds: float = option(
        MAX_SECONDS,
        "Max processor time in which the chat template renders a conversation.",
        type=Seconds(0.1),
        metavar="SECONDS",
    )
    workers: int = option(
        1, "Processes that share the port, one for each core to use.", type=POSITIVE, metavar="N"
    )
    server: ServerConfig = field(default_factory=lambda: ServerConfig(port=DEFAULT_PORT))
    logs: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        check(self)
        if self.expect_fingerprint and not _FINGERPRINT.fullmatch(self.expect_fingerprint):
            raise ConfigError(
                f"--expect-fingerprint takes 64 hex digits, as `folovllm info` shows them, got "
                f"{self.expect_fingerprint}"
            )
        if not self.engines:
            raise ConfigError("name at least one engine with --engine HOST:PORT")
        for address in self.engines:
            check_address(address, "--engine", DEFAULT_ENGINE_PORT)


def parse_args(argv: Sequence[str]) -> TokenizerServiceConfig:
    """Reads the command line and the environment. Raises ConfigError."""
    about = "Serves folovllm.v1.TokenizerService: text in, streamed text out."
    return parse(TokenizerServiceConfig(), "python -m tokenizer_service", about, argv)
