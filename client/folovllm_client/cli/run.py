"""`folovllm run`: both services on free ports for the time of a chat."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from folovllm.model_files import check_model_folder, is_hub_id, resolve_model
from folovllm_client.cli.chat.options import ChatSettings, chat_options
from folovllm_client.cli.console import CommandError, note, progress
from folovllm_client.cli.group import examples
from folovllm_client.cli.request_options import argument_or_stdin
from folovllm_client.launch.background import BackgroundServices
from folovllm_client.launch.service_commands import (
    ServeOptions,
    require_services,
    service_commands,
)
from folovllm_client.launch.service_process import ServiceEndedError

# What a model is often tried with. All else comes from the environment, as with `serve`.
_SERVICE_OPTIONS = {
    "device": "cpu, cuda or cuda:N.",
    "dtype": "Of the weights: auto, float32, bfloat16 or float16.",
    "quantization": "Of the weights, on a CPU: int8 or int4.",
    "max_model_len": "Max tokens of prompt and completion.",
}


@click.command(
    params=[
        click.Option([f"--{name.replace('_', '-')}"], help=help_text, metavar="VALUE")
        for name, help_text in _SERVICE_OPTIONS.items()
    ],
    epilog=examples(
        "folovllm run",
        "folovllm run Qwen/Qwen3-0.6B",
        'folovllm run ./my-model "What is 47 + 38?" --no-thinking',
    ),
)
@click.argument("model", required=False)
@click.argument("question", required=False)
@chat_options
def run(model: str | None, question: str | None, **settings: Any) -> None:
    """Serves MODEL, opens a chat with it, and stops.

    MODEL is a folder or a hub id, which is fetched if need be; without one it is the embedded
    model. With a QUESTION, this alone is answered; `-` reads it from standard input. In all else
    it is `folovllm chat`.
    """
    require_services()
    served = {name: settings.pop(name) for name in _SERVICE_OPTIONS}
    chosen = ChatSettings.from_options(**settings)
    asked = None if question is None else argument_or_stdin(question)
    _prepare(model)
    given = {name: value for name, value in served.items() if value is not None}
    serve_options = ServeOptions.from_environment(
        port=0, engine_port=0, engine=(), model=model, log_format="text", **given
    )
    # pydantic takes a while to import, and the other commands do not need it
    from folovllm_client.cli.chat.conversation import hold_conversation

    with _served(serve_options) as check:
        hold_conversation(asked, serve_options.address, chosen, check)


def _prepare(model: str | None) -> None:
    """Makes sure that the model is on this machine and complete. Raises ConfigError."""
    if model is None:
        return
    if is_hub_id(model) and not Path(model).is_dir():
        from folovllm_client.cli.hub.cached_models import is_complete
        from folovllm_client.cli.hub.download import pull_model

        if not is_complete(model):
            pull_model(model)
    else:
        check_model_folder(resolve_model(model, ()))


@contextmanager
def _served(serve_options: ServeOptions) -> Iterator[Callable[[], None]]:
    """Runs the services, quietly. Gives what raises CommandError if one of them has ended."""
    services = BackgroundServices(service_commands(serve_options), serve_options.address)

    def check() -> None:
        try:
            services.check()
        except ServiceEndedError as error:
            # No FolovError, after which a chat goes on.
            raise _failure(services, error) from None

    with ExitStack() as stack:
        try:
            with progress(f"loading {serve_options.model or 'the embedded model'}"):
                stack.enter_context(services.running())
        except ServiceEndedError as error:
            raise _failure(services, error) from None
        yield check


def _failure(services: BackgroundServices, error: ServiceEndedError) -> CommandError:
    """The error, after the end of the services' logs."""
    for line in services.log:
        note(line)
    return CommandError(str(error))
