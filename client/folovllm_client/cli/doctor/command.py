"""The command `folovllm doctor`."""

import json
import platform
import sys
from collections.abc import Sequence

import click

from folovllm.installation.parts import PARTS
from folovllm.version import __version__
from folovllm_client.cli.console import CommandError, note, open_console
from folovllm_client.cli.doctor.caches import Cache, check_caches, clear, find_caches, readable
from folovllm_client.cli.doctor.findings import Report
from folovllm_client.cli.doctor.gpu import check_gpu
from folovllm_client.cli.doctor.packages import check_packages, installed_versions
from folovllm_client.cli.doctor.processor import check_processor
from folovllm_client.cli.group import examples


@click.command(
    epilog=examples("folovllm doctor", "folovllm doctor engine", "folovllm doctor --clear-caches")
)
@click.argument("part", type=click.Choice([*PARTS]), default="client", metavar="[PART]")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("--clear-caches", is_flag=True, help="Delete what can be made again, and end.")
@click.option("-y", "--yes", is_flag=True, help="With --clear-caches: do not ask.")
def doctor(part: str, as_json: bool, clear_caches: bool, yes: bool) -> None:
    """Says what is installed, what computes, and what is missing.

    With each thing that is missing comes the command that installs it. PART is client, tokenizer,
    engine or all. The exit code is 0 when it and every other part that is installed work.

    Models of the hub are no cache: --clear-caches leaves them alone.
    """
    if yes and not clear_caches:
        raise click.UsageError("--yes is for --clear-caches; add that, or leave --yes out")
    if as_json and clear_caches:
        raise click.UsageError("--clear-caches prints no report; leave --json out")
    if clear_caches:
        _clear_caches(ask=not yes)
        return
    report = examine(part)
    if as_json:
        click.echo(json.dumps(_facts(report) | report.as_dict()))
    else:
        console = open_console(err=False)
        console.print(f"FolovLLM {__version__}", style="bold", end="")
        console.print(f", Python {platform.python_version()} in {sys.prefix}")
        report.show(console)
    _conclude(report, quiet=as_json)


def examine(part: str) -> Report:
    """Looks at everything; `part` has to be installed."""
    return Report(
        {
            "packages": check_packages(part),
            "processor": check_processor(),
            "GPU": check_gpu(),
            "caches": check_caches(),
        }
    )


def _facts(report: Report) -> dict[str, object]:
    return {
        "ok": not report.of_state("error"),
        "computes": report.what_computes(),
        "version": __version__,
        "python": platform.python_version(),
        "versions": installed_versions(),
    }


def _conclude(report: Report, *, quiet: bool) -> None:
    """Ends with the line that matters. Raises CommandError where something does not work."""
    if errors := report.of_state("error"):
        first = errors[0]
        remedy = f"; type: {first.command}" if first.command else ""
        raise CommandError(f"{first.name} {first.text}{remedy}")
    if quiet:
        return
    computes = report.what_computes()
    text = f"models are computed by {computes}" if computes else "works as a client of a server"
    warnings = report.of_state("warning")
    note(f"\n{text}{'; what could be better is marked' if warnings else ''}")


def _clear_caches(*, ask: bool) -> None:
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
        raise CommandError(f"{error.filename} cannot be deleted: {error.strerror}") from None
    note(f"deleted {readable(*caches)}")


def _confirm(caches: Sequence[Cache]) -> None:
    try:
        click.confirm(f"delete {readable(*caches)}?", abort=True, err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        text = "nothing was deleted; where nobody can answer, type --clear-caches --yes"
        raise CommandError(text) from None
