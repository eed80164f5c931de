"""`folovllm demo`: both services on the embedded model, one streamed answer and its figures."""

import asyncio
import time
from collections import deque
from contextlib import aclosing
from pathlib import Path

import click

from client.async_client import AsyncClient
from client.console import StatusLine, command_name, dim
from client.requests import generate_request, partial_sampling_params
from client.service_commands import (
    ServeOptions,
    engine_command,
    free_ports,
    require_services,
    tokenizer_command,
)
from client.stream_stats import StreamStats
from client.supervisor import Supervisor, run_services
from folovllm.errors import FolovError
from folovllm.model_files import DEMO_MODEL
from folovllm.outputs import FinishReason
from folovllm.version import __version__

PROMPT = "Once upon a time"
_MAX_TOKENS = 80
_SEED = 7
_LOG_LINES = 25


def demo() -> bool:
    """Shows the whole way once, on ports of its own; False where a signal ended it.

    Raises FolovError where something fails, after the last lines of the services' logs.
    """
    require_services()
    port, engine_port = free_ports(2)
    options = ServeOptions(port=port, engine_port=engine_port, model=str(DEMO_MODEL))
    log: deque[str] = deque(maxlen=_LOG_LINES)
    services = Supervisor(
        engine_command(options), tokenizer_command(options), options.address, log.append
    )
    try:
        return asyncio.run(run_services(services, lambda: show(services, options)))
    except FolovError:
        for line in log:
            click.echo(dim(line), err=True)
        raise


async def show(services: Supervisor, options: ServeOptions) -> None:
    """Waits for the services and prints one answer as it comes."""
    click.echo(f"{click.style(f'FolovLLM {__version__}', bold=True)}  text in, streamed text out\n")
    started = time.monotonic()
    async with StatusLine().showing("starting both services"):
        await services.ready()
    seconds = time.monotonic() - started
    async with AsyncClient(options.address) as client:
        info = await client.model_info()
        _print_figures(
            ("tokenizer service", options.address),
            ("engine service", f"{options.engine_address}  {info.dtype} on {info.device}"),
            ("ready after", f"{seconds:.1f} s"),
        )
        stats = await _stream_answer(client)
    first, rate = stats.time_to_first_token, stats.tokens_per_second
    _print_figures(
        ("tokens", str(stats.num_tokens)),
        ("first token", "-" if first is None else f"{first * 1e3:.0f} ms"),
        ("speed", "-" if rate is None else f"{rate:.0f} tokens/s"),
    )
    _print_next_commands()


async def _stream_answer(client: AsyncClient) -> StreamStats:
    sampling = partial_sampling_params({"max_tokens": _MAX_TOKENS, "seed": _SEED})
    stats = StreamStats()
    click.echo(f"\n{click.style(PROMPT, bold=True)}", nl=False)
    async with aclosing(client.send(generate_request(PROMPT, sampling))) as pieces:
        async for piece in pieces:
            stats.observe(piece)
            click.echo(piece.text, nl=False)
            if piece.finish_reason is FinishReason.LENGTH:
                click.echo(dim(" …"), nl=False)
    click.echo("\n")
    return stats


def _print_figures(*rows: tuple[str, str]) -> None:
    for name, value in rows:
        click.echo(f"  {dim(f'{name:<18}')} {value}")


def _print_next_commands() -> None:
    command = command_name()
    click.echo(dim("\nnext"))
    click.echo(f"  {command} serve")
    click.echo(f'  {command} generate "{PROMPT}"')
    if (Path(__file__).parent.parent / "Makefile").is_file():
        click.echo("  make test")
