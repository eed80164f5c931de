"""The commands `parity` and `perplexity`."""

import json
from pathlib import Path
from typing import Any

import click

from folovllm.serving.args import options
from folovllm_client.cli.console import show_text
from folovllm_client.cli.group import examples
from folovllm_client.cli.quality.parity_report import ParityOptions
from folovllm_client.cli.quality.perplexity import PerplexityOptions, measure_perplexity
from folovllm_client.launch.service_commands import require_services


@click.command(
    params=[*options(ParityOptions())],
    epilog=examples(
        "folovllm parity", "folovllm parity --model Qwen/Qwen3-0.6B --quantization int8"
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def parity(as_json: bool, **settings: Any) -> None:
    """Compares the engine with transformers on the same weights.

    Continues N prompts by N steps each. The exit code is 0 when the verdict is PASS.
    """
    require_services()
    from folovllm_client.cli.quality.parity import check_parity

    if settings["dtype"] is None:
        settings["dtype"] = "float32" if settings["quantization"] == "none" else "bfloat16"
    report = check_parity(ParityOptions(**settings))
    click.echo(json.dumps(report.as_dict()) if as_json else report.table())
    if not report.passed:
        raise click.exceptions.Exit(1)


@click.command(
    params=[*options(PerplexityOptions(file=Path()))],
    epilog=examples("folovllm perplexity --model Qwen/Qwen3-0.6B --file book.txt"),
)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="TEXT",
    help="The text to predict, in UTF-8.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def perplexity(as_json: bool, **settings: Any) -> None:
    """Measures how well a model predicts a text, in this process.

    Run with and without --quantization, it tells what that costs in quality.
    """
    require_services()
    measured = measure_perplexity(PerplexityOptions(**settings))
    show_text(json.dumps(measured.as_dict()) if as_json else measured.line())
