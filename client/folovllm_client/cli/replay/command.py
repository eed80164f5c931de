"""The command `replay`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from folovllm.serving.args import POSITIVE, options
from folovllm_client.cli.console import TypingError, note, open_console, progress, show_text
from folovllm_client.cli.group import examples
from folovllm_client.cli.local_model import LocalModelOptions
from folovllm_client.cli.request_options import server_option

if TYPE_CHECKING:
    from folovllm_client.cli.replay.report import ReplayReport
    from folovllm_client.cli.replay.runner import Runner


@click.command(
    params=[*options(LocalModelOptions())],
    epilog=examples(
        "folovllm replay audit.jsonl",
        "folovllm replay audit.jsonl --server other-host:50051 --json",
        "folovllm replay audit.jsonl --local --model Qwen/Qwen3-0.6B",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--local", is_flag=True, help="Run in this process, by default the embedded model.")
@click.option(
    "--concurrency",
    type=POSITIVE,
    default=16,
    show_default=True,
    metavar="N",
    help="Requests that run at a time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@server_option
def replay(
    file: Path, server: str, local: bool, concurrency: int, as_json: bool, **given: Any
) -> None:
    """Runs recorded requests again and compares the tokens.

    FILE has one record a line, as a tokenizer service writes them with --record. Of each output
    that differs it shows the first token that does, and by how many nats. The exit code is 0 when
    every token is equal.
    """
    from folovllm_client.cli.replay.progress import shown_progress
    from folovllm_client.cli.replay.replaying import check_file, numerics_of
    from folovllm_client.cli.replay.replaying import replay as run

    with _runner(server, local, concurrency, given) as runner:
        summary = check_file(file, runner)
        numerics = numerics_of(summary, runner.info)
        if not as_json:
            note(f"{runner.info.model_id} at {runner.place}; {numerics}")
        with shown_progress(summary.num_records) as count:
            report = run(file, runner, summary, count)
    if as_json:
        show_text(json.dumps(report.as_dict()))
    else:
        _show(report)
    if not report.passed:
        raise click.exceptions.Exit(1)


@contextmanager
def _runner(
    server: str, local: bool, concurrency: int, given: dict[str, Any]
) -> Iterator["Runner"]:
    """Where the requests run."""
    source = click.get_current_context().get_parameter_source
    if local or given["model"] is not None:
        if source("server") is ParameterSource.COMMANDLINE:
            raise TypingError("--server and --model or --local exclude each other; give one")
        from folovllm_client.launch.service_commands import require_services

        require_services()
        from folovllm_client.cli.replay.local_runner import LocalRunner

        with progress(f"loading {given['model'] or 'the embedded model'}"):
            runner = LocalRunner(LocalModelOptions(**given), concurrency)
        yield runner
        return
    for name in given:
        if source(name) is ParameterSource.COMMANDLINE:
            raise TypingError(f"--{name} is for a model in this process; add --local")
    from folovllm_client.cli.replay.server_runner import ServerRunner

    with ServerRunner(server, concurrency) as asked:
        yield asked


def _show(report: "ReplayReport") -> None:
    """A table of what is not equal, and the verdict."""
    rows = report.rows()
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        show_text("  ".join(cells).rstrip())
    console = open_console(err=False)
    if rows:
        console.print()
    verdict, style = ("PASS", "green") if report.passed else ("FAIL", "red")
    console.print(verdict, style=style, end="  ")
    console.print(report.summary)
