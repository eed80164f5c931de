"""`folovllm tokenize` and `detokenize`: text to token ids and back."""

import click

from folovllm_client.api.sync_client import Client
from folovllm_client.cli.console import UNARY_TIMEOUT, show_text
from folovllm_client.cli.group import examples
from folovllm_client.cli.request_options import argument_or_stdin, server_option

_TOKEN_ID = click.IntRange(0, 2**32 - 1)


@click.command(epilog=examples('folovllm tokenize "Hello, world"'))
@click.argument("text")
@server_option
def tokenize(text: str, server: str) -> None:
    """Prints the token ids of TEXT.

    `-` reads the text from standard input.
    """
    with Client(server, UNARY_TIMEOUT) as client:
        click.echo(" ".join(map(str, client.tokenize(argument_or_stdin(text)))))


@click.command(epilog=examples("folovllm detokenize 40 316"))
@click.argument("ids", metavar="ID...", type=_TOKEN_ID, nargs=-1, required=True)
@server_option
def detokenize(ids: tuple[int, ...], server: str) -> None:
    """Prints the text of token ids."""
    with Client(server, UNARY_TIMEOUT) as client:
        show_text(client.detokenize(ids))
