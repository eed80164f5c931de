"""Structured logs: key=value for people, one JSON object a line for machines. Never prompt text."""

import logging
import sys
from dataclasses import dataclass
from typing import Literal, get_args

import click
import structlog

from folovllm.serving.args import check, option

LogFormat = Literal["auto", "text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged, and how."""

    log_format: LogFormat = option(
        "auto",
        "text for people, json for one JSON object a line; auto is text at a terminal, else json.",
        type=click.Choice(get_args(LogFormat)),
    )
    log_level: LogLevel = option(
        "info",
        "The lowest level that is logged; each request is a line of info.",
        type=click.Choice(get_args(LogLevel)),
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def as_json(self) -> bool:
        """Whether lines are JSON, for what standard error is now."""
        return self.log_format == "json" or (self.log_format == "auto" and not sys.stderr.isatty())


def text_renderer() -> structlog.dev.ConsoleRenderer:
    """Makes lines for people, with colours at a terminal."""
    # No formatter here shows local variables: they may hold prompts.
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )


def configure_logging(config: LogConfig, **fields: object) -> None:
    """Sets up structlog for the whole process, writing to standard error.

    Every line has `fields`, for example to identify one of several processes.
    """
    as_json = config.as_json
    renderer = structlog.processors.JSONRenderer() if as_json else text_renderer()
    before = [structlog.processors.format_exc_info] if as_json else []
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            lambda _logger, _method, entry: {**entry, **fields},
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *before,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[config.log_level.upper()]
        ),
        # Writes each line in one call, so that lines of several processes do not mix.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def forward_logging(package: str, level: str = "info") -> None:
    """Formats what a package's modules log by the standard library like everything else.

    They use it because they also run in-process, where nothing configures structlog. Call it after
    configure_logging.
    """
    logger = logging.getLogger(package)
    logger.handlers = [_Forwarder()]
    logger.setLevel(level.upper())
    logger.propagate = False


class _Forwarder(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).log(
            record.levelno, record.getMessage(), exc_info=record.exc_info
        )
