"""Runs both services in the foreground until a signal, or until one of them cannot be kept up."""

import asyncio
import time
from contextlib import nullcontext

from rich.text import Text

from folovllm.errors import ConfigError
from folovllm.serving.address import DEFAULT_PORT
from folovllm.serving.output.standard_streams import unblock_standard_streams
from folovllm.serving.ports import host_and_port, require_free_port
from folovllm.version import __version__
from folovllm_client.cli.console import command_name, open_console, progress
from folovllm_client.cli.serve.log_lines import LogLines
from folovllm_client.cli.serve.status_line import status_line
from folovllm_client.launch.service_commands import (
    LOOPBACK,
    ServeOptions,
    require_services,
    service_commands,
    upkeeps,
)
from folovllm_client.launch.supervisor import Supervisor, run_services


def serve(options: ServeOptions) -> None:
    """Runs both services until SIGINT or SIGTERM.

    Raises ConfigError or ServiceEndedError if they cannot start, ServiceEndedError if one of them
    ended again and again.
    """
    # Whoever reads what is printed must not hold up the services by stopping.
    unblock_standard_streams()
    require_services()
    _require_free_ports(options)
    logs = LogLines(options.tokenizer.logs)
    services = Supervisor(service_commands(options), options.address, on_log=logs)
    asyncio.run(supervise(services, options, logs))


async def supervise(services: Supervisor, options: ServeOptions, logs: LogLines) -> None:
    """Starts the services, says when and where they are ready, and keeps them running.

    Shows what they are doing meanwhile where the log is live.
    """

    async def body() -> None:
        started = time.monotonic()
        with progress(f"loading {options.model or 'the embedded model'}"):
            await services.ready()
        open_console(err=False).print(ready_text(options, time.monotonic() - started))
        with status_line(options.engine_address) if logs.live else nullcontext():
            await services.keep_running(upkeeps(options), logs.warn)

    await run_services(services, body)


def ready_text(options: ServeOptions, seconds: float) -> Text:
    """Where the services listen, and what to type next."""
    command = command_name()
    server = (
        "" if options.address == f"{LOOPBACK}:{DEFAULT_PORT}" else f" --server {options.address}"
    )
    listen = options.tokenizer.server
    parts = (
        (f"FolovLLM {__version__}", "bold"),
        f" is ready after {seconds:.1f} s\n",
        f"  tokenizer service  {host_and_port(listen.host, listen.port)}  ",
        ("text; for clients\n", "dim"),
        f"  engine service     {options.engine_address}  ",
        ("token ids\nin another terminal\n", "dim"),
        f"  {command} chat{server}\n",
        f'  {command} generate{server} "Once upon a time"\n',
        f"  {command} info{server}\n",
        ("Ctrl-C stops both", "dim"),
    )
    return Text.assemble(*parts)


def _require_free_ports(options: ServeOptions) -> None:
    tokenizer, engine = options.tokenizer.server, options.engine.server
    if tokenizer.port == engine.port:
        raise ConfigError(f"--port and --engine-port are both {engine.port}; choose two ports")
    require_free_port(tokenizer.host, tokenizer.port, "--port")
    require_free_port(engine.host, engine.port, "--engine-port")
