"""`folovllm serve`: both services in the foreground until a signal or the end of one of them."""

import asyncio
import sys
import time

from rich.text import Text

from folovllm.errors import ConfigError
from folovllm.serving.ports import require_free_port
from folovllm.version import __version__
from folovllm_client.cli.console import command_name, open_console, progress
from folovllm_client.launch.service_commands import (
    LOOPBACK,
    ServeOptions,
    require_services,
    service_commands,
)
from folovllm_client.launch.supervisor import Supervisor, run_services


def serve(options: ServeOptions) -> None:
    """Runs both services until SIGINT or SIGTERM.

    Raises ConfigError if they cannot start, ServiceEndedError if one of them ended.
    """
    require_services()
    if options.port == options.engine_port:
        raise ConfigError(f"--port and --engine-port are both {options.port}; choose two ports")
    require_free_port(options.host, options.port, "--port")
    require_free_port(LOOPBACK, options.engine_port, "--engine-port")
    services = Supervisor(
        service_commands(options),
        options.address,
        # click would write past the progress, not above it.
        on_log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    asyncio.run(supervise(services, options))


async def supervise(services: Supervisor, options: ServeOptions) -> None:
    """Starts the services, says when and where they are ready, and waits for the end."""

    async def body() -> None:
        started = time.monotonic()
        with progress(f"loading {options.model or 'the embedded model'}"):
            await services.ready()
        open_console(err=False).print(ready_text(options, time.monotonic() - started))
        await services.ended()

    await run_services(services, body)


def ready_text(options: ServeOptions, seconds: float) -> Text:
    """Where the services listen, and what to type next."""
    command = command_name()
    default = ServeOptions()
    elsewhere = (options.host, options.port) != (default.host, default.port)
    server = f" --server {options.address}" if elsewhere else ""
    parts = (
        (f"FolovLLM {__version__}", "bold"),
        f" is ready after {seconds:.1f} s\n",
        f"  tokenizer service  {options.host}:{options.port}  ",
        ("text; for clients\n", "dim"),
        f"  engine service     {options.engine_address}  ",
        ("token ids\nin another terminal\n", "dim"),
        f"  {command} chat{server}\n",
        f'  {command} generate{server} "Once upon a time"\n',
        f"  {command} info{server}\n",
        ("Ctrl-C stops both", "dim"),
    )
    return Text.assemble(*parts)
