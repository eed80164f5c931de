"""Structured logs: key=value for people, one JSON object a line for machines. Never prompt text.

A line is short, whatever is in it: names and errors may hold what a caller sent. Nothing that
happens to a line, or to who reads it, reaches who logs it; see `output`.
"""

import faulthandler
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import click
import structlog
from structlog.typing import EventDict, Processor

from folovllm.serving.args import check, option
from folovllm.serving.output.line_stream import LineStream
from folovllm.serving.output.standard_streams import unblock_standard_streams

# Characters in a line of one value, and of what the service itself makes: a traceback, or the
# stacks of its threads.
_MAX_VALUE = 1024
_MAX_LONG_VALUE = 16384
_LONG_VALUES = ("exception", "stack")
# Of values whose text is short; that of a subclass need not be.
_SHORT_TYPES = frozenset((type(None), bool, int, float))

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


def configure_logging(config: LogConfig, *, threaded: bool = True, **fields: object) -> None:
    """Sets up structlog for the whole process, writing to standard error.

    Every line has `fields`, for example to identify one of several processes. Whatever else is
    printed takes the same way, in its order, except for the stacks that a crash leaves. A process
    that forks is not `threaded`.
    """
    as_json = config.as_json
    render = _Rendering(
        [
            structlog.contextvars.merge_contextvars,
            lambda _logger, _method, entry: {**entry, **fields},
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            shorten,
            structlog.processors.JSONRenderer() if as_json else text_renderer(),
        ]
    )
    unblock_standard_streams(render.dropped_line, threaded=threaded)
    if isinstance(sys.stderr, LineStream):
        faulthandler.enable(sys.stderr)
    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[config.log_level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    forward_logging("folovllm", config.log_level)


def shorten(_logger: object, _method: str, entry: EventDict) -> EventDict:
    """Cuts the middle of each value of over 1024 characters, of stacks of over 16384."""
    for name, value in entry.items():
        if type(value) in _SHORT_TYPES or (type(value) is str and len(value) <= _MAX_VALUE):
            continue
        limit = _MAX_LONG_VALUE if name in _LONG_VALUES else _MAX_VALUE
        text = value if isinstance(value, str) else repr(value)
        if len(text) > limit:
            half = limit // 2
            entry[name] = f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"
    return entry


class _Rendering:
    """Makes an entry a line. Where that fails, the line says so instead."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        self._processors = processors

    def __call__(self, logger: object, method: str, entry: EventDict) -> str:
        event = entry.get("event")
        try:
            rendered: object = entry
            for processor in self._processors:
                rendered = processor(logger, method, cast(EventDict, rendered))
            return str(rendered)
        except Exception as error:
            return f"warning: the line of {event!r:.200} failed: {type(error).__name__}"

    def dropped_line(self, count: int) -> str:
        """Says how many lines were dropped."""
        return self(None, "warning", {"event": "lines dropped", "lines": count}) + "\n"


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
        try:
            message = record.getMessage()
        except Exception:  # its arguments do not fit its text
            message = f"a message of {record.name} that cannot be formatted"
        structlog.get_logger(record.name).log(record.levelno, message, exc_info=record.exc_info)
