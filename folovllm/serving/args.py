"""The command line that both services share, and the rule by which the environment fills it.

Every flag may also come from an environment variable, for containers: `--grace-period` from
FOLOVLLM_GRACE_PERIOD. A flag on the command line wins; an empty variable counts as not set; a
repeatable flag takes a list with commas; a switch takes 1/true/yes or 0/false/no.
"""

import argparse
import math
import os
from collections.abc import Mapping, Sequence

from folovllm.serving.server import ServerConfig

ENVIRONMENT_PREFIX = "FOLOVLLM_"

_YES = ("1", "true", "yes")
_NO = ("0", "false", "no")


def add_server_arguments(parser: argparse.ArgumentParser, default_port: int) -> None:
    """Adds --host, --port, --grace-period, --no-reflection and --log-format."""
    defaults = ServerConfig()
    parser.add_argument(
        "--host", default=defaults.host, help="address to bind, 0.0.0.0 for all (%(default)s)"
    )
    parser.add_argument(
        "--port",
        type=_port_number,
        default=default_port,
        help="port to bind, 0 for any (%(default)s)",
    )
    parser.add_argument(
        "--grace-period",
        type=_seconds,
        default=defaults.grace_period,
        metavar="SECONDS",
        help="time that running streams get to finish after SIGTERM (%(default)s)",
    )
    parser.add_argument(
        "--no-reflection", action="store_true", help="do not serve the schema to grpcurl and alike"
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="lines for people, or one JSON object a line (%(default)s)",
    )


def server_config(namespace: argparse.Namespace) -> ServerConfig:
    """Reads back what add_server_arguments added; log_format stays in the namespace."""
    return ServerConfig(
        host=namespace.host,
        port=namespace.port,
        grace_period=namespace.grace_period,
        reflection=not namespace.no_reflection,
    )


def parse_with_environment(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    environ: Mapping[str, str] | None = None,
) -> argparse.Namespace:
    """Parses `argv`, with the environment's values (os.environ for None) as its defaults.

    Ends the process with status 2 and the parser's usage where a value is not allowed, as argparse
    does, wherever the value came from.
    """
    given = parser.parse_args(argv)
    arguments = _from_environment(parser, os.environ if environ is None else environ, given)
    return parser.parse_args([*arguments, *argv])


def _from_environment(
    parser: argparse.ArgumentParser, environ: Mapping[str, str], given: argparse.Namespace
) -> list[str]:
    """The environment's values as arguments, to stand before those of the command line."""
    arguments: list[str] = []
    flags = [(flag, action) for action in parser._actions for flag in action.option_strings]
    for flag, action in flags:
        if not flag.startswith("--"):
            continue
        name = ENVIRONMENT_PREFIX + flag[2:].upper().replace("-", "_")
        value = environ.get(name, "").strip()
        if not value:
            continue
        if action.nargs != 0:
            arguments += _with_value(action, flag, value, given)
        elif action.const is True:  # a switch; --help has no const
            if value.lower() not in (*_YES, *_NO):
                parser.error(f"{name} must be one of {', '.join((*_YES, *_NO))}, got {value!r}")
            arguments += [flag] * (value.lower() in _YES)
    return arguments


def _with_value(
    action: argparse.Action, flag: str, value: str, given: argparse.Namespace
) -> list[str]:
    if not isinstance(action, argparse._AppendAction):
        return [f"{flag}={value}"]
    # The command line replaces a list, it does not add to it.
    if getattr(given, action.dest) != action.default:
        return []
    return [f"{flag}={item.strip()}" for item in value.split(",") if item.strip()]


def _port_number(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"must be between 0 and 65535, got {text}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text}")
    return seconds
