"""The options of commands that ask a server: which one, how to sample, and for how long."""

from collections.abc import Callable
from typing import TypeVar

import click

from folovllm_client.api.requests import DEFAULT_ADDRESS

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

_REQUEST_OPTIONS = (
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
        callback=lambda _context, _option, file: file and file.read(),
        metavar="FILE",
        help="The answer is a value of the schema.",
    ),
    click.option("--seed", type=int, metavar="N", help="Makes sampling repeatable."),
    click.option("--stop", multiple=True, metavar="TEXT", help="Ends the answer. May be repeated."),
    click.option("--ignore-eos", is_flag=True, help="Go on after the end-of-sequence token."),
    click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Deadline for the whole answer.",
    ),
    click.option(
        "--stats", is_flag=True, help="Print the figures even if stderr is not a terminal."
    ),
    server_option,
)


def request_options(command: _Command) -> _Command:
    """Gives a command --server, --timeout, --stats and the sampling parameters."""
    for option in reversed(_REQUEST_OPTIONS):
        command = option(command)
    return command
