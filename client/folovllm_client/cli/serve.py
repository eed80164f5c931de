"""`folovllm serve`: both services in the foreground until a signal or the end of one of them."""

import asyncio
import time

import click

from folovllm.errors import ConfigError
from folovllm.serving.ports import require_free_port
from folovllm.version import __version__
from folovllm_client.cli.console import StatusLine, command_name, dim
from folovllm_client.launch.service_commands import (
    LOOPBACK,
    ServeOptions,
    engine_command,
    require_services,
    tokenizer_command,
)
from folovllm_client.launch.supervisor import Supervisor, run_services


def serve(options: ServeOptions) -> None:
    """Runs both services until SIGINT or SIGTERM.

    Raises ConfigError where they cannot start, ServiceEndedError where one of them ended.
    """
    require_services()
    if options.port == options.engine_port:
        raise ConfigError(f"--port and --engine-port are both {options.port}; choose two ports")
    require_free_port(options.host, options.port, "--port")
    require_free_port(LOOPBACK, options.engine_port, "--engine-port")
    status = StatusLine()
    services = Supervisor(
        engine_command(options), tokenizer_command(options), options.address, status.print
    )
    asyncio.run(supervise(services, options, status))


async def supervise(services: Supervisor, options: ServeOptions, status: StatusLine) -> None:
    """Starts the services, says when and where they are ready, and waits for the end."""

    async def body() -> None:
        started = time.monotonic()
        async with status.showing(f"loading {options.model or 'the embedded model'}"):
            await services.ready()
        click.echo(ready_text(options, time.monotonic() - started))
        await services.ended()

    await run_services(services, body)


def ready_text(options: ServeOptions, seconds: float) -> str:
    """Where the services listen, and what to type next."""
    command = command_name()
    default = ServeOptions()
    elsewhere = (options.host, options.port) != (default.host, default.port)
    server = f" --server {options.address}" if elsewhere else ""
    return "\n".join(
        (
            f"FolovLLM {__version__} is ready after {seconds:.1f} s",
            f"  tokenizer service  {options.host}:{options.port}  {dim('text; for clients')}",
            f"  engine service     {options.engine_address}  {dim('token ids')}",
            dim("in another terminal"),
            f"  {command} chat{server}",
            f'  {command} generate{server} "Once upon a time"',
            f"  {command} info{server}",
            dim("Ctrl-C stops both"),
        )
    )
