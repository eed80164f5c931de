"""The options of commands that hold a chat, and ChatSettings, what they choose."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import click

from folovllm.v1 import types_pb2
from folovllm_client.cli.request_options import request_options, sampling_message

_Command = TypeVar("_Command", bound=Callable[..., object])

_OPTIONS = (
    click.option(
        "--tools",
        "tools_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE.py",
        help="Python functions that the model may call.",
    ),
    click.option("--system", default="", metavar="TEXT", help="Instructions for the model."),
    click.option("--no-thinking", is_flag=True, help="Answer without reasoning first."),
    click.option(
        "--thinking-budget", type=click.IntRange(0), metavar="N", help="Max tokens of reasoning."
    ),
    click.option(
        "--json", "as_json", is_flag=True, help="Print each whole answer as one JSON object a line."
    ),
)


def chat_options(command: _Command) -> _Command:
    """Gives a command the options of a chat, but no server."""
    command = request_options(command)
    for add_option in reversed(_OPTIONS):
        command = add_option(command)
    return command


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """How to talk with a model."""

    sampling_params: types_pb2.SamplingParams
    timeout: float | None
    tools_file: Path | None
    system: str
    no_thinking: bool
    thinking_budget: int | None
    as_json: bool
    show_figures: bool

    @classmethod
    def from_options(
        cls,
        *,
        timeout: float | None,
        tools_file: Path | None,
        system: str,
        no_thinking: bool,
        thinking_budget: int | None,
        as_json: bool,
        stats: bool,
        **sampling: object,
    ) -> Self:
        """What the options of `chat_options` choose. Raises InvalidRequestError."""
        return cls(
            sampling_message(sampling),
            timeout,
            tools_file,
            system,
            no_thinking=no_thinking,
            thinking_budget=thinking_budget,
            as_json=as_json,
            show_figures=stats or sys.stderr.isatty(),
        )
