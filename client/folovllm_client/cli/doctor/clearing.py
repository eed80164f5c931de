"""`folovllm doctor --clear-caches`."""

import sys
from collections.abc import Sequence

import click

from folovllm_client.cli.console import CommandError, note
from folovllm_client.cli.doctor.caches import Cache, clear, find_caches, readable


def clear_all(*, ask: bool) -> None:
    """Lists the caches, asks unless told not to, and deletes them. Raises CommandError."""
    caches = find_caches()
    if not caches:
        note("the caches are empty")
        return
    for cache in caches:
        note(f"{cache.name}: {readable(cache)} in {cache.place}")
    if ask:
        _confirm(caches)
    try:
        clear(caches)
    except OSError as error:
        raise CommandError(f"not everything was deleted: {error}") from None
    note(f"deleted {readable(*caches)}")


def _confirm(caches: Sequence[Cache]) -> None:
    try:
        click.confirm(f"delete {readable(*caches)}?", abort=True, err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo(err=True)
        text = "nothing was deleted; where nobody can answer, type --clear-caches --yes"
        raise CommandError(text) from None
