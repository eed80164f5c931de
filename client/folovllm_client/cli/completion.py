"""`folovllm completion`, and the model ids that a shell completes."""

from collections.abc import Iterator
from contextlib import suppress

import click
from click.shell_completion import CompletionItem, get_completion_class

from folovllm.errors import ConfigError
from folovllm_client.cli.group import examples
from folovllm_client.cli.hub.cached_models import model_ids

_COMMAND = "folovllm"
_SHELLS = ("bash", "zsh", "fish")


class ModelName(click.types.StringParamType):
    """A model's folder or hub id; a shell completes folders, and the ids of fetched models."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The ids that begin like this, else whatever folders the shell finds."""
        found = [CompletionItem(model) for model in _fetched() if model.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="dir")]


def complete_models(command: click.Command) -> None:
    """Lets a shell complete what is called `model` in a command and in those below it."""
    for param in command.params:
        if param.name == "model":
            param.type = ModelName()
    if isinstance(command, click.Group):
        for each in command.commands.values():
            complete_models(each)


@click.command(
    epilog=examples(
        "folovllm completion bash >> ~/.bashrc",
        "folovllm completion zsh >> ~/.zshrc       # after compinit",
        "folovllm completion fish > ~/.config/fish/completions/folovllm.fish",
    )
)
@click.argument("shell", type=click.Choice(_SHELLS), metavar="SHELL")
def completion(shell: str) -> None:
    """Prints what lets a shell complete this command: bash, zsh or fish.

    Install it once, then open a new shell.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, _COMMAND, f"_{_COMMAND.upper()}_COMPLETE").source())


def _fetched() -> Iterator[str]:
    """The hub ids of the models in the hub's cache, complete or not."""
    with suppress(ConfigError):  # there is no cache without the hub's package
        yield from model_ids()
