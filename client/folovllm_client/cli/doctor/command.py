"""The command `folovllm doctor`."""

import click

from folovllm.installation.parts import PARTS
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
    # Later, since the other commands need nothing of it.
    if clear_caches:
        from folovllm_client.cli.doctor.clearing import clear_all

        clear_all(ask=not yes)
        return
    from folovllm_client.cli.doctor.examination import examine_and_show

    examine_and_show(part, as_json=as_json)
