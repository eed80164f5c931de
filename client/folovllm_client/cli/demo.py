"""`folovllm demo`: both services on the embedded model, a chat of all kinds, a story, figures."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Unpack

from pydantic import BaseModel
from rich.console import Console

from folovllm.errors import FolovError
from folovllm.model_files import DEMO_MODEL
from folovllm.v1 import types_pb2
from folovllm.version import __version__
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.api.chat_requests import ChatOptions, ToolFunction
from folovllm_client.api.requests import partial_sampling_params
from folovllm_client.api.tools import Toolbox
from folovllm_client.cli.chat.answer_printer import AnswerPrinter
from folovllm_client.cli.chat.session import ChatSession
from folovllm_client.cli.console import command_name, harmless, note, open_console, progress
from folovllm_client.cli.stream_stats import StreamStats
from folovllm_client.launch.service_commands import (
    ServeOptions,
    require_services,
    service_commands,
)
from folovllm_client.launch.supervisor import Supervisor, run_services

_SEED = 7
_LOG_LINES = 25
_STORY = "Once upon a time"


class Person(BaseModel, extra="forbid"):
    """The person in a sentence."""

    name: str
    age: int
    city: str


def get_weather(city: str) -> dict[str, object]:
    """Get the weather in a city."""
    return {"city": city, "temperature": 21, "condition": "sunny"}


def demo() -> bool:
    """Runs everything once, on free ports; False if a signal ended it.

    Raises FolovError if something fails, after showing the end of the services' logs.
    """
    require_services()
    options = ServeOptions.from_environment(
        port=0, engine_port=0, engine=(), model=str(DEMO_MODEL), log_format="text"
    )
    log: deque[str] = deque(maxlen=_LOG_LINES)
    services = Supervisor(service_commands(options), options.address, log.append)
    try:
        return asyncio.run(run_services(services, lambda: show(services, options)))
    except FolovError:
        for line in log:
            note(line)
        raise


async def show(services: Supervisor, options: ServeOptions) -> None:
    """Waits for the services and prints the answers as they arrive."""
    console = open_console(err=False)
    console.print(f"FolovLLM {__version__}", style="bold", end="  ")
    console.print("text in, streamed text out\n")
    started = time.monotonic()
    with progress("starting both services"):
        await services.ready()
    seconds = time.monotonic() - started
    async with AsyncClient(options.address) as client:
        info = await client.model_info()
        for name, value in (
            ("tokenizer service", options.address),
            ("engine service", f"{options.engine_address}  {info.dtype} on {info.device}"),
            ("ready after", f"{seconds:.1f} s"),
        ):
            console.print(f"  {name:<18}", style="dim", end=" ")
            console.print(value)
        await _chat(client, console, "What is 47 + 38?")
        sentence = "Write as JSON: Anna is 12 and lives in Oslo."
        await _chat(client, console, sentence, response_format=Person, enable_thinking=False)
        question = "What is the weather in Oslo?"
        await _chat(client, console, question, tools=[get_weather], enable_thinking=False)
        await _continue(client, console, _STORY)
    _print_next_commands(console)


async def _chat(
    client: AsyncClient,
    console: Console,
    question: str,
    tools: Iterable[ToolFunction] = (),
    **options: Unpack[ChatOptions],
) -> None:
    """Shows an answer as it arrives, with its thinking, tool calls and figures."""
    console.print(f"\n{question}", style="bold")
    options["sampling_params"] = _sampling(temperature=0.0)
    await ChatSession(client, Toolbox(tools), options, AnswerPrinter(err=False)).ask(question)


async def _continue(client: AsyncClient, console: Console, text: str) -> None:
    """Streams a text's continuation, then shows its figures."""
    console.print(f"\n{text}", style="bold", end="")
    stats = StreamStats()
    async with aclosing(client.stream(text, _sampling(temperature=0.7))) as pieces:
        async for piece in pieces:
            stats.observe(piece)
            console.print(harmless(piece.text), end="")
    console.print(f"\n{stats.summary()}", style="dim")


def _sampling(temperature: float) -> types_pb2.SamplingParams:
    return partial_sampling_params({"max_tokens": 200, "seed": _SEED, "temperature": temperature})


def _print_next_commands(console: Console) -> None:
    command = command_name()
    console.print("\nnext", style="dim")
    for arguments in ("serve", "chat", f'generate "{_STORY}"'):
        console.print(f"  {command} {arguments}")
    if (Path(__file__).parents[3] / "Makefile").is_file():
        console.print("  make test")
