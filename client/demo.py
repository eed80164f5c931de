"""`folovllm demo`: both services on the embedded model, streamed answers and their figures."""

import asyncio
import re
import time
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass
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
from folovllm.version import __version__

_SEED = 7
_LOG_LINES = 25
_NO_THINKING = "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Scene:
    """One thing to show: what is asked, and the prompt that asks it."""

    asked: str
    prompt: str
    temperature: float = 0.0


def _turn(question: str, answer_start: str = "") -> str:
    """A user's turn as the embedded model knows it, and the beginning of its own."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer_start}"


_SUM = "What is 47 + 38?"
_SENTENCE = "Write as JSON: Anna is 12 and lives in Oslo."
STORY = "Once upon a time"
SCENES = (
    Scene(_SUM, _turn(_SUM)),
    Scene(_SENTENCE, _turn(_SENTENCE, _NO_THINKING)),
    Scene(STORY, STORY, temperature=0.7),
)


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
    """Waits for the services and prints the answers as they come."""
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
        for scene in SCENES:
            await _stream_answer(client, scene)
    _print_next_commands()


async def _stream_answer(client: AsyncClient, scene: Scene) -> None:
    """Asks, prints the answer as it comes, its thinking dimmed, and its figures."""
    sampling = partial_sampling_params(
        {"max_tokens": 200, "seed": _SEED, "temperature": scene.temperature}
    )
    stats = StreamStats()
    thinking = False
    click.echo(f"\n{click.style(scene.asked, bold=True)}", nl=scene.asked != scene.prompt)
    async with aclosing(client.send(generate_request(scene.prompt, sampling))) as pieces:
        async for piece in pieces:
            stats.observe(piece)
            for part in re.split("(</?think>)", piece.text):
                thinking = part == "<think>" or (thinking and part != "</think>")
                dimmed = thinking or part == "</think>"
                click.echo(dim(part) if dimmed and part else part, nl=False)
    click.echo(dim(f"\n{stats.summary()}"))


def _print_figures(*rows: tuple[str, str]) -> None:
    for name, value in rows:
        click.echo(f"  {dim(f'{name:<18}')} {value}")


def _print_next_commands() -> None:
    command = command_name()
    click.echo(dim("\nnext"))
    click.echo(f"  {command} serve")
    click.echo(f'  {command} generate "{STORY}"')
    if (Path(__file__).parent.parent / "Makefile").is_file():
        click.echo("  make test")
