"""`folovllm chat`: talks with a model at a terminal, through a pipe, or once."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from folovllm.version import __version__
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.api.chat_requests import ChatOptions
from folovllm_client.api.requests import partial_sampling_params
from folovllm_client.cli.answer_printer import AnswerPrinter
from folovllm_client.cli.console import note
from folovllm_client.cli.request_options import request_options


@click.command()
@click.argument("question", required=False)
@click.option(
    "--tools",
    "tools_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.py",
    help="Python functions that the model may call.",
)
@click.option("--system", default="", metavar="TEXT", help="Instructions for the model.")
@click.option("--no-thinking", is_flag=True, help="Answer without reasoning first.")
@click.option(
    "--thinking-budget", type=click.IntRange(0), metavar="N", help="Max tokens of reasoning."
)
@request_options
def chat(
    question: str | None,
    tools_file: Path | None,
    system: str,
    no_thinking: bool,
    thinking_budget: int | None,
    timeout: float | None,
    stats: bool,
    server: str,
    **sampling: Any,
) -> None:
    """Talks with the model, or answers QUESTION once.

    In a terminal, /help lists the commands, and Ctrl-C stops an answer. From a pipe, each line is a
    turn or a command; the exit code is 1 if one failed. Thinking, tool calls and figures go to
    standard error.
    """
    # pydantic takes a while to import, and the other commands do not need it
    from folovllm_client.api.tools import Toolbox, load_tools
    from folovllm_client.cli.chat.session import ChatSession
    from folovllm_client.cli.chat.terminal import answer_lines

    toolbox = Toolbox([] if tools_file is None else load_tools(tools_file))
    options: ChatOptions = {
        "sampling_params": partial_sampling_params(sampling),
        "enable_thinking": False if no_thinking else None,
        "thinking_budget": thinking_budget,
    }
    show_figures = stats or sys.stderr.isatty()

    async def connect() -> AsyncClient:
        return AsyncClient(server, timeout)

    with asyncio.Runner() as runner:
        client = runner.run(connect())
        session = ChatSession(client, toolbox, options, AnswerPrinter(err=True), show_figures)
        session.set_system(system)

        def ask(question: str) -> None:
            # Ctrl-C cancels the call and raises KeyboardInterrupt here.
            runner.run(session.ask(question))

        try:
            if question is not None:
                ask(question)
            elif sys.stdin.isatty() and sys.stdout.isatty():
                from folovllm_client.cli.chat.typed_lines import typed_lines

                model = runner.run(client.model_info()).model_id
                note(f"FolovLLM {__version__} · {model} · /help lists commands")
                answer_lines(typed_lines(), session, ask, typed=True)
            else:
                lines = (line.decode(errors="replace") for line in sys.stdin.buffer)
                if not answer_lines(lines, session, ask, typed=False):
                    raise click.exceptions.Exit(1)
        finally:
            runner.run(client.close())
