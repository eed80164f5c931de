"""The command `folovllm serve` and its flags."""

from typing import Any

import click

from folovllm.serving.args import SectionedCommand
from folovllm.serving.variables import unknown_variables
from folovllm_client.cli.completion import complete_models
from folovllm_client.cli.group import examples
from folovllm_client.launch.service_commands import ServeOptions, require_services


class ServeCommand(SectionedCommand):
    """Has every flag of both services, whose packages are imported when the flags are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """All flags. Raises ConfigError if only the client is installed."""
        if not self.params:
            require_services()
            from folovllm_client.launch.serve_flags import serve_flags

            self.params = [flag.option for flag in serve_flags()]
            complete_models(self)
        return super().get_params(ctx)


@click.command(
    cls=ServeCommand,
    epilog=examples("folovllm serve", "folovllm serve --model Qwen/Qwen3-0.6B --port 50060")
    + "\n\nEach option may come from the environment: --port from FOLOVLLM_PORT, --engine-port "
    "from FOLOVLLM_ENGINE_PORT. The command line wins.",
)
@click.pass_context
def serve(context: click.Context, /, **values: Any) -> None:
    """Starts both services and stops them together."""
    from folovllm_client.cli.serve.run import serve as run

    known = {name for param in context.command.params for name in getattr(param, "variables", ())}
    for line in unknown_variables(known):
        click.echo(f"{click.style('warning:', fg='yellow')} {line}", err=True)
    run(ServeOptions(**values))
