"""Holds a chat with a server: one question, or the lines of a terminal or of a pipe."""

import asyncio
import sys
from collections.abc import Callable

import click

from folovllm.errors import UnavailableError
from folovllm.version import __version__
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.api.chat_requests import ChatOptions
from folovllm_client.api.tools import Toolbox, load_tools
from folovllm_client.cli.chat.answer_printer import AnswerPrinter, JsonPrinter
from folovllm_client.cli.chat.options import ChatSettings
from folovllm_client.cli.chat.session import ChatSession
from folovllm_client.cli.chat.terminal import answer_lines
from folovllm_client.cli.console import note


def hold_conversation(
    question: str | None,
    server: str,
    settings: ChatSettings,
    when_unavailable: Callable[[], None] = lambda: None,
) -> None:
    """Answers the question, or without one each line of standard input.

    Where the server cannot be reached, `when_unavailable` may raise a better error.
    """
    toolbox = Toolbox([] if settings.tools_file is None else load_tools(settings.tools_file))
    options: ChatOptions = {
        "sampling_params": settings.sampling_params,
        "enable_thinking": False if settings.no_thinking else None,
        "thinking_budget": settings.thinking_budget,
    }

    async def connect() -> AsyncClient:
        return AsyncClient(server, settings.timeout)

    with asyncio.Runner() as runner:
        client = runner.run(connect())
        printer = JsonPrinter() if settings.as_json else AnswerPrinter(err=True)
        session = ChatSession(client, toolbox, options, printer, settings.show_figures)
        session.set_system(settings.system)

        def ask(question: str) -> None:
            try:
                # Ctrl-C cancels the call and raises KeyboardInterrupt here.
                runner.run(session.ask(question))
            except UnavailableError:
                when_unavailable()
                raise

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
