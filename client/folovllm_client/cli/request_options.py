"""The options of commands that ask a server: which one, how to sample, and for how long."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TextIO, TypeVar

from click import BadParameter, Context, File, FloatRange, Parameter, option
from click.core import ParameterSource

from folovllm.errors import InvalidRequestError
from folovllm.sampling_params import UNTIL_CONTEXT_ENDS, SamplingParams
from folovllm.serving.address import check_address
from folovllm.v1 import types_pb2
from folovllm_client.api.requests import DEFAULT_ADDRESS, partial_sampling_params

_Command = TypeVar("_Command", bound=Callable[..., object])
_UNBOUNDED = -1
_CHECKED = frozenset(field.name for field in fields(SamplingParams) if field.init)

_SERVER_VARIABLE = "FOLOVLLM_SERVER"


def _check_server(context: Context, parameter: Parameter, address: str) -> str:
    source = context.get_parameter_source(str(parameter.name))
    is_variable = source is ParameterSource.ENVIRONMENT
    return check_address(address, _SERVER_VARIABLE if is_variable else "--server")


def _read_schema(_context: Context, _parameter: Parameter, file: TextIO | None) -> str | None:
    if file is None:
        return None
    with file:
        text = file.read()
    try:
        json.loads(text)
    except ValueError as error:
        raise BadParameter(f"{file.name} holds no JSON: {error}") from None
    return text


server_option = option(
    "--server",
    callback=_check_server,
    metavar="HOST:PORT",
    envvar=_SERVER_VARIABLE,
    default=DEFAULT_ADDRESS,
    show_default=True,
    show_envvar=True,
    help="The tokenizer service to ask.",
)

_REQUEST_OPTIONS = (
    option(
        "--max-tokens",
        type=int,
        metavar="N",
        default=_UNBOUNDED,
        show_default=True,
        help="Max tokens to generate; -1 is as many as the context has room for.",
    ),
    option("--min-tokens", type=int, metavar="N", help="No stop before this many tokens."),
    option("--temperature", type=float, metavar="X", help="Randomness; 0 is greedy."),
    option("--top-k", type=int, metavar="K", help="Keep the K most probable tokens."),
    option("--top-p", type=float, metavar="P", help="Keep the tokens that make up P."),
    option("--min-p", type=float, metavar="P", help="Keep tokens at least P times the best."),
    option("--presence-penalty", type=float, metavar="X", help="Against what was generated."),
    option("--frequency-penalty", type=float, metavar="X", help="The same, for each time."),
    option("--repetition-penalty", type=float, metavar="X", help="Against all tokens so far."),
    option("--bad-words", multiple=True, metavar="TEXT", help="Not to come. May be repeated."),
    option("--regex", metavar="PATTERN", help="The whole answer matches it."),
    option(
        "--json-schema",
        type=File(),
        callback=_read_schema,
        metavar="FILE",
        help="The answer is a value of the schema.",
    ),
    option("--seed", type=int, metavar="N", help="Makes sampling repeatable."),
    option("--stop", multiple=True, metavar="TEXT", help="Ends the answer. May be repeated."),
    option("--ignore-eos", is_flag=True, help="Go on after the end-of-sequence token."),
    option(
        "--timeout",
        type=FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Deadline for the whole answer.",
    ),
    option("--stats", is_flag=True, help="Print the figures even if stderr is not a terminal."),
)


def request_options(command: _Command) -> _Command:
    """Gives a command --timeout, --stats and the sampling parameters."""
    for add_option in reversed(_REQUEST_OPTIONS):
        command = add_option(command)
    return command


def sampling_message(given: Mapping[str, Any]) -> types_pb2.SamplingParams:
    """The message of the sampling parameters that were given, and max_tokens.

    Raises InvalidRequestError for a value out of its range, before anything is sent.
    """
    if given.get("regex") and given.get("json_schema"):
        raise InvalidRequestError("regex", "regex and json_schema exclude each other; give one")
    values = {name: value for name, value in given.items() if value not in (None, ())}
    if values["max_tokens"] == _UNBOUNDED:
        values["max_tokens"] = UNTIL_CONTEXT_ENDS
    elif values["max_tokens"] < 1:
        raise InvalidRequestError(
            "max_tokens",
            "max_tokens must be at least 1, or -1 for as many as the context has room for, "
            f"got {values['max_tokens']}",
        )
    SamplingParams(**{name: values[name] for name in _CHECKED & values.keys()})
    return partial_sampling_params(values)


def argument_or_stdin(argument: str) -> str:
    """The argument, or for `-` standard input without the line break at its end."""
    if argument != "-":
        return argument
    return sys.stdin.read().removesuffix("\n")
