"""`folovllm chat`: the options of a chat, and which way it goes."""

import sys
from pathlib import Path
from typing import Any

import click

from client.console import dim
from client.sampling_options import (
    given_sampling_params,
    sampling_options,
    server_option,
    stats_option,
    timeout_option,
)
from client.sync_client import Client
from folovllm.version import __version__


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
    "--thinking-budget", type=click.IntRange(0), metavar="N", help="Most tokens of reasoning."
)
@sampling_options
@timeout_option
@stats_option
@server_option
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
    turn or a command; the exit code is 1 where one failed. Thinking, tool calls and figures go to
    standard error.
    """
    from client.chat_requests import ChatOptions
    from client.chat_session import ChatSession  # pydantic takes a while to import
    from client.chat_terminal import chat_at_terminal, chat_through_pipe
    from client.line_editor import LineEditor, history_file
    from client.tools import Toolbox, load_tools

    toolbox = Toolbox([] if tools_file is None else load_tools(tools_file))
    options: ChatOptions = {
        "sampling_params": given_sampling_params(sampling),
        "enable_thinking": False if no_thinking else None,
        "thinking_budget": thinking_budget,
    }
    with Client(server, timeout) as client:
        session = ChatSession(client, toolbox, options, stats or sys.stderr.isatty())
        session.set_system(system)
        if question is not None:
            session.ask(question)
        elif sys.stdin.isatty() and sys.stdout.isatty():
            model = client.model_info().model_id
            click.echo(dim(f"FolovLLM {__version__} · {model} · /help lists commands"), err=True)
            with LineEditor(history_file()) as editor:
                chat_at_terminal(session, editor)
        else:
            lines = (line.decode(errors="replace") for line in sys.stdin.buffer)
            if not chat_through_pipe(session, lines):
                raise click.exceptions.Exit(1)
