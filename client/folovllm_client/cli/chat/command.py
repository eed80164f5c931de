"""`folovllm chat`: talks with a model at a terminal, through a pipe, or once."""

from typing import Any

import click

from folovllm_client.cli.chat.options import ChatSettings, chat_options
from folovllm_client.cli.group import examples
from folovllm_client.cli.request_options import argument_or_stdin, server_option


@click.command(
    epilog=examples(
        "folovllm chat",
        'folovllm chat "What is 47 + 38?"',
        "folovllm chat - --json < question.txt",
    )
)
@click.argument("question", required=False)
@chat_options
@server_option
def chat(question: str | None, server: str, **settings: Any) -> None:
    """Talks with the model, or answers QUESTION once.

    In a terminal, /help lists the commands, and Ctrl-C stops an answer. From a pipe, each line is a
    turn or a command; the exit code is 1 if one failed. `-` reads one question from standard input.
    Thinking, tool calls and figures go to standard error.
    """
    chosen = ChatSettings.from_options(**settings)
    # pydantic takes a while to import, and the other commands do not need it
    from folovllm_client.cli.chat.conversation import hold_conversation

    hold_conversation(None if question is None else argument_or_stdin(question), server, chosen)
