"""The commands `pull`, `list` and `rm`."""

import click

from folovllm.errors import NotFoundError
from folovllm.model_files.hub import hub_cache, shown
from folovllm_client.cli.console import note, show_text
from folovllm_client.cli.group import examples
from folovllm_client.cli.hub.cached_models import (
    CachedModel,
    cached_models,
    model_folder,
    remove_model,
)
from folovllm_client.cli.hub.sizes import size_text


@click.command(epilog=examples("folovllm pull Qwen/Qwen3-0.6B"))
@click.argument("model", metavar="HUB_ID")
def pull(model: str) -> None:
    """Fetches a model from the hub, or what the cache lacks of it.

    HF_ENDPOINT, HF_HOME and HF_TOKEN apply. Prints the model's folder.
    """
    from folovllm_client.cli.hub.download import pull_model

    folder = pull_model(model)
    [cached] = [each for each in cached_models() if each.model_id == model]
    note(f"{model}: {size_text(cached.size)}{_warning(cached)}")
    click.echo(folder)


@click.command("list", epilog=examples("folovllm list"))
def list_models() -> None:
    """Lists the models of the hub that are on this machine.

    Each with its size, and whether it can be served.
    """
    models = cached_models()
    name_width = max((len(each.model_id) for each in models), default=0)
    for each in models:
        served = f"no: {each.obstacle}" if each.obstacle else "can be served"
        show_text(f"{each.model_id:<{name_width}}  {size_text(each.size):>8}  {served}")
    total = size_text(sum(each.size for each in models))
    count = f"{len(models)} {'model' if len(models) == 1 else 'models'}"
    note(f"{count}, {total} in {shown(hub_cache())}")
    if not models:
        note("fetch one with: folovllm pull Qwen/Qwen3-0.6B")


@click.command("rm", epilog=examples("folovllm rm Qwen/Qwen3-0.6B"))
@click.argument("model", metavar="HUB_ID")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def remove(model: str, yes: bool) -> None:
    """Removes a model of the hub from this machine.

    The hub's cache is shared: other programs lose the model too.
    """
    if not model_folder(model).is_dir():
        raise NotFoundError(
            f"{model} is not in the cache at {shown(hub_cache())}; `folovllm list` shows what is"
        )
    [cached] = [each for each in cached_models() if each.model_id == model]
    if not yes:
        question = f"Remove {model}, {size_text(cached.size)}, from {shown(hub_cache())}?"
        click.confirm(question, abort=True, err=True)
    note(f"removed {model}: {size_text(remove_model(model))} are free again")


def _warning(model: CachedModel) -> str:
    return f"; it cannot be served: {model.obstacle}" if model.obstacle else ""
