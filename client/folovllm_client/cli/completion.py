"""`folovllm completion`, and the model ids that a shell completes."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

_COMMAND = "folovllm"
_SHELLS = ("bash", "zsh", "fish")
_HUB_FOLDER = "models--"


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


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS), metavar="SHELL")
def completion(shell: str) -> None:
    """Prints what lets a shell complete this command: bash, zsh or fish.

    Install it once, then open a new shell:

    \b
      folovllm completion bash >> ~/.bashrc
      folovllm completion zsh >> ~/.zshrc       # after compinit
      folovllm completion fish > ~/.config/fish/completions/folovllm.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, _COMMAND, f"_{_COMMAND.upper()}_COMPLETE").source())


def _fetched() -> Iterator[str]:
    """The hub ids of the models in the hub's cache, complete or not."""
    if find_spec("huggingface_hub") is None:
        return
    from huggingface_hub.constants import HF_HUB_CACHE

    for folder in sorted(Path(HF_HUB_CACHE).expanduser().glob(f"{_HUB_FOLDER}*")):
        yield folder.name.removeprefix(_HUB_FOLDER).replace("--", "/", 1)
