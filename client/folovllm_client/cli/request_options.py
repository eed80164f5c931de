"""The options of commands that ask a server: which one, how to sample, and for how long."""

from collections.abc import Callable
from typing import TypeVar

from click import File, FloatRange, option

from folovllm_client.api.requests import DEFAULT_ADDRESS

_Command = TypeVar("_Command", bound=Callable[..., object])

server_option = option(
    "--server",
    metavar="HOST:PORT",
    envvar="FOLOVLLM_SERVER",
    default=DEFAULT_ADDRESS,
    show_default=True,
    show_envvar=True,
    help="The tokenizer service to ask.",
)

_REQUEST_OPTIONS = (
    option("--max-tokens", type=int, metavar="N", help="Max tokens to generate."),
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
        callback=lambda _context, _option, file: file and file.read(),
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
    server_option,
)


def request_options(command: _Command) -> _Command:
    """Gives a command --server, --timeout, --stats and the sampling parameters."""
    for add_option in reversed(_REQUEST_OPTIONS):
        command = add_option(command)
    return command
