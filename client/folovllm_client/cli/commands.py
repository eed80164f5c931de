"""The `folovllm` command line.

Results go to standard output, everything else to standard error. A failure is one line, `error: …`,
and exit code 1; Ctrl-C ends quietly with 130.
"""

import dataclasses
import json
import sys
from contextlib import closing
from typing import Any

import click

from folovllm.errors import FolovError
from folovllm.outputs import RequestOutput
from folovllm.serving.args import HELP_SETTINGS, options
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.version import __version__
from folovllm_client.api.requests import empty_output, generate_request, partial_sampling_params
from folovllm_client.api.sync_client import Client
from folovllm_client.cli.chat.command import chat
from folovllm_client.cli.console import CommandError, failure_text, note, show_text
from folovllm_client.cli.parity_report import ParityOptions
from folovllm_client.cli.perplexity import PerplexityOptions, measure_perplexity
from folovllm_client.cli.request_options import request_options, server_option
from folovllm_client.cli.stream_stats import StreamStats
from folovllm_client.launch.service_commands import ServeOptions, require_services

_UNARY_TIMEOUT = 10.0
_INTERRUPTED = 130
_TOKEN_ID = click.IntRange(0, 2**32 - 1)


class Commands(click.Group):
    """Turns the errors of all commands into exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the requested command."""
        try:
            return super().invoke(ctx)
        except FolovError as error:
            raise CommandError(failure_text(error)) from None
        except KeyboardInterrupt:
            ctx.exit(_INTERRUPTED)


@click.group(cls=Commands, context_settings=HELP_SETTINGS)
@click.version_option(__version__, prog_name="folovllm", message="%(prog)s %(version)s")
def commands() -> None:
    """Serves Qwen3-family language models over gRPC, and asks them."""


@commands.command(params=[*options(ServeOptions())])
def serve(**settings: Any) -> None:
    """Starts both services and stops them together.

    Other settings of the services come from their FOLOVLLM_* environment variables.
    """
    from folovllm_client.cli.serve import serve as run

    run(ServeOptions(**settings))


@commands.command()
@click.argument("prompt")
@click.option("--logprobs", type=int, metavar="K", help="With --json: K candidates a token.")
@click.option("--prompt-logprobs", type=int, metavar="K", help="The same for the prompt.")
@click.option("--n", type=int, metavar="N", help="Number of answers.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as one JSON object.")
@request_options
def generate(
    prompt: str,
    server: str,
    timeout: float | None,
    as_json: bool,
    stats: bool,
    **sampling: Any,
) -> None:
    """Continues PROMPT and prints the text as it arrives.

    `-` reads the prompt from standard input. A parameter that is not given is left to the model's
    own default.
    """
    text = _argument_or_stdin(prompt)
    request = generate_request(
        text, partial_sampling_params(sampling), return_prompt_token_ids=as_json
    )
    live = not as_json and sampling["n"] in (None, 1)
    output = empty_output(text)
    timer = StreamStats()
    with Client(server, timeout) as client, closing(client.send(request)) as pieces:
        try:
            for piece in pieces:
                timer.observe(piece)
                output.add(piece)
                if live:
                    show_text(piece.text, nl=False)
        finally:
            if live and output.outputs:
                click.echo()
    if not live:
        show_text(_json_line(output) if as_json else _with_headers(output))
    if stats or sys.stderr.isatty():
        note(timer.summary())


commands.add_command(chat)


@commands.command()
@click.argument("text")
@server_option
def tokenize(text: str, server: str) -> None:
    """Prints the token ids of TEXT.

    `-` reads the text from standard input.
    """
    with Client(server, _UNARY_TIMEOUT) as client:
        click.echo(" ".join(map(str, client.tokenize(_argument_or_stdin(text)))))


@commands.command()
@click.argument("ids", metavar="ID...", type=_TOKEN_ID, nargs=-1, required=True)
@server_option
def detokenize(ids: tuple[int, ...], server: str) -> None:
    """Prints the text of token ids."""
    with Client(server, _UNARY_TIMEOUT) as client:
        show_text(client.detokenize(ids))


@commands.command()
@server_option
def info(server: str) -> None:
    """Shows the model that is served."""
    with Client(server, _UNARY_TIMEOUT) as client:
        values = dataclasses.asdict(client.model_info())
    width = max(map(len, values))
    for name, value in values.items():
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        show_text(f"{name:<{width}}  {shown or '-'}")


@commands.command()
@server_option
def health(server: str) -> None:
    """Shows whether the server is ready.

    The exit code is 0 when the server and its service are both SERVING.
    """
    with Client(server, _UNARY_TIMEOUT) as client:
        statuses = {"server": client.health(), TOKENIZER_SERVICE: client.health(TOKENIZER_SERVICE)}
    for name, status in statuses.items():
        click.echo(f"{name:<{len(TOKENIZER_SERVICE)}}  {status}")
    if set(statuses.values()) != {"SERVING"}:
        raise click.exceptions.Exit(1)


@commands.command(params=[*options(ParityOptions())])
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def parity(as_json: bool, **settings: Any) -> None:
    """Compares the engine with transformers on the same weights.

    Continues N prompts by N steps each. The exit code is 0 when the verdict is PASS.
    """
    require_services()
    from folovllm_client.cli.parity import check_parity

    if settings["dtype"] is None:
        settings["dtype"] = "float32" if settings["quantization"] == "none" else "bfloat16"
    report = check_parity(ParityOptions(**settings))
    click.echo(json.dumps(report.as_dict()) if as_json else report.table())
    if not report.passed:
        raise click.exceptions.Exit(1)


@commands.command(params=[*options(PerplexityOptions())])
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def perplexity(as_json: bool, **settings: Any) -> None:
    """Measures how well a model predicts a text, in this process.

    Run with and without --quantization, it tells what that costs in quality.
    """
    require_services()
    measured = measure_perplexity(PerplexityOptions(**settings))
    show_text(json.dumps(measured.as_dict()) if as_json else measured.line())


@commands.command()
def demo() -> None:
    """Shows both services at work, once.

    Starts them on the embedded model, streams some answers, and stops them.
    """
    from folovllm_client.cli.demo import demo as run

    if not run():
        raise click.exceptions.Exit(_INTERRUPTED)


def _argument_or_stdin(argument: str) -> str:
    """The argument, or for `-` standard input without the line break at its end."""
    if argument != "-":
        return argument
    return sys.stdin.read().removesuffix("\n")


def _with_headers(output: RequestOutput) -> str:
    total = len(output.outputs)
    return "\n".join(f"[{one.index + 1}/{total}]\n{one.text}" for one in output.outputs)


def _json_line(output: RequestOutput) -> str:
    answer = dataclasses.asdict(output)
    for continuation in answer["outputs"]:
        del continuation["info"]  # the request's, which the answer holds itself
    return json.dumps(answer, ensure_ascii=False)
