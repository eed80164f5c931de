"""The options that several commands share: which server, and how to sample."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from folovllm.v1 import types_pb2
from folovllm_client.api.requests import DEFAULT_ADDRESS, partial_sampling_params

_Command = TypeVar("_Command", bound=Callable[..., object])

server_option = click.option(
    "--server",
    metavar="HOST:PORT",
    envvar="FOLOVLLM_SERVER",
    default=DEFAULT_ADDRESS,
    show_default=True,
    show_envvar=True,
    help="The tokenizer service to ask.",
)
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Deadline for the whole answer.",
)
stats_option = click.option(
    "--stats", is_flag=True, help="Print the figures even if stderr is not a terminal."
)

_SAMPLING_OPTIONS = (
    click.option("--max-tokens", type=int, metavar="N", help="Max tokens to generate."),
    click.option("--min-tokens", type=int, metavar="N", help="No stop before this many tokens."),
    click.option("--temperature", type=float, metavar="X", help="Randomness; 0 is greedy."),
    click.option("--top-k", type=int, metavar="K", help="Keep the K most probable tokens."),
    click.option("--top-p", type=float, metavar="P", help="Keep the tokens that make up P."),
    click.option("--min-p", type=float, metavar="P", help="Keep tokens at least P times the best."),
    click.option("--presence-penalty", type=float, metavar="X", help="Against what was generated."),
    click.option("--frequency-penalty", type=float, metavar="X", help="The same, for each time."),
    click.option(
        "--repetition-penalty", type=float, metavar="X", help="Against all tokens so far."
    ),
    click.option(
        "--bad-words", multiple=True, metavar="TEXT", help="Not to come. May be repeated."
    ),
    click.option("--regex", metavar="PATTERN", help="The whole answer matches it."),
    click.option(
        "--json-schema",
        type=click.File(),
        metavar="FILE",
        help="The answer is a value of the schema.",
    ),
    click.option("--seed", type=int, metavar="N", help="Makes sampling repeatable."),
    click.option("--stop", multiple=True, metavar="TEXT", help="Ends the answer. May be repeated."),
    click.option("--ignore-eos", is_flag=True, help="Go on after the end-of-sequence token."),
)


def sampling_options(command: _Command) -> _Command:
    """Gives a command the options that say how to sample."""
    for option in reversed(_SAMPLING_OPTIONS):
        command = option(command)
    return command


def given_sampling_params(options: dict[str, Any]) -> types_pb2.SamplingParams:
    """The message with what the options say; the rest is left to the model's own defaults."""
    schema = options["json_schema"]
    return partial_sampling_params(
        {**options, "json_schema": None if schema is None else schema.read()}
    )
