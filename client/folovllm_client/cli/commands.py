"""The `folovllm` command line.

Results go to standard output, everything else to standard error. A failure is one line, `error: …`,
and exit code 1, or 2 if the command itself was typed wrong; Ctrl-C ends quietly with 130.
"""

import click

from folovllm.serving.args import HELP_SETTINGS
from folovllm.version import __version__
from folovllm_client.cli.chat.command import chat
from folovllm_client.cli.completion import complete_models, completion
from folovllm_client.cli.doctor.command import doctor
from folovllm_client.cli.generate import generate
from folovllm_client.cli.group import INTERRUPTED, Commands, examples
from folovllm_client.cli.hub.command import list_models, pull, remove
from folovllm_client.cli.info import health, info
from folovllm_client.cli.quality.command import parity, perplexity
from folovllm_client.cli.replay.command import replay
from folovllm_client.cli.run import run
from folovllm_client.cli.serve.command import serve
from folovllm_client.cli.tokenize import detokenize, tokenize


@click.group(cls=Commands, context_settings=HELP_SETTINGS)
@click.version_option(__version__, prog_name="folovllm", message="%(prog)s %(version)s")
def commands() -> None:
    """Serves Qwen3-family language models over gRPC, and asks them."""


@click.command(epilog=examples("folovllm demo"))
def demo() -> None:
    """Shows both services at work, once.

    Starts them on the embedded model, streams some answers, and stops them.
    """
    from folovllm_client.cli.demo import demo as run

    if not run():
        raise click.exceptions.Exit(INTERRUPTED)


commands.add_section("Begin", (demo, run, serve))
commands.add_section("Ask a server", (chat, generate, tokenize, detokenize, info, health))
commands.add_section("Models of the hub", (pull, list_models, remove))
commands.add_section("Check and set up", (doctor, parity, perplexity, replay, completion))
complete_models(commands)
