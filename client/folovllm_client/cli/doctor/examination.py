"""The whole report of `folovllm doctor`, and the line with which it ends."""

import json
import platform
import sys

import click

from folovllm.version import __version__
from folovllm_client.cli.console import CommandError, note, open_console
from folovllm_client.cli.doctor.caches import check_caches
from folovllm_client.cli.doctor.findings import Report
from folovllm_client.cli.doctor.gpu import check_gpu
from folovllm_client.cli.doctor.packages import check_packages, installed_versions
from folovllm_client.cli.doctor.processor import check_processor


def examine_and_show(part: str, *, as_json: bool) -> None:
    """Prints what was found. Raises CommandError where `part`, or one that was begun, fails."""
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
