"""Structured logs: key=value for people, one JSON object a line for machines. Never prompt text."""

import logging
import sys
from typing import Literal

import structlog

LogFormat = Literal["text", "json"]


def configure_logging(
    log_format: LogFormat = "text", level: str = "info", **fields: object
) -> None:
    """Sets up structlog for the whole process, writing to standard error.

    Every line has `fields`, for example to identify one of several processes.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    # No formatter here shows local variables: they may hold prompts.
    before = [structlog.processors.format_exc_info] if log_format == "json" else []
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
            logging.getLevelNamesMapping()[level.upper()]
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
