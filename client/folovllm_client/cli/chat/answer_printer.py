"""AnswerPrinter prints the answer of a chat as it arrives, JsonPrinter when it is complete."""

import dataclasses
import json

import click

from folovllm.chat import ChatMessage, ToolCall
from folovllm.chat_outputs import ChatOutput, ChatResult, ContentDelta, ReasoningDelta
from folovllm_client.cli.console import harmless, open_console, show_text
from folovllm_client.cli.stream_stats import StreamStats

_RESULT_WIDTH = 200


class AnswerPrinter:
    """Writes content to standard output; thinking, tool calls and figures are dimmed.

    `err` sends those to standard error, so that standard output has only answers.
    """

    def __init__(self, err: bool) -> None:
        self._asides = open_console(err=err)
        self._line_of = ""  # what the open line shows

    def show(self, output: ChatOutput) -> None:
        """Writes an event; begin_call and end_line show calls and the end."""
        match output.event:
            case ReasoningDelta(text):
                self._begin("reasoning")
                self._aside(text)
            case ContentDelta(text):
                if self._line_of == "reasoning":
                    self._aside("\n\n")
                    self._line_of = ""
                self._begin("content")
                click.echo(harmless(text), nl=False)

    def end_line(self) -> None:
        """Ends the open line."""
        if self._line_of == "content":
            click.echo()
        elif self._line_of:
            self._aside("\n")
        self._line_of = ""

    def end_turn(self, result: ChatResult) -> None:
        """Ends an answer after which the model calls no more tools."""
        self.end_line()

    def begin_call(self, call: ToolCall) -> None:
        """Shows a tool call while it runs."""
        self.end_line()
        self._line_of = "call"
        self._aside(f"{call.name} {_one_line(call.arguments)}")

    def end_call(self, answer: ChatMessage) -> None:
        """Shows what the tool answered, on the same line."""
        self._aside(f" → {_one_line(answer.content)}")
        self.end_line()

    def figures(self, stats: StreamStats) -> None:
        """Shows how fast the answer arrived."""
        self._aside(f"{stats.summary()}\n")

    def _begin(self, what: str) -> None:
        if self._line_of != what:
            self.end_line()
            self._line_of = what

    def _aside(self, text: str) -> None:
        self._asides.print(harmless(text), style="dim", end="")


class JsonPrinter(AnswerPrinter):
    """Writes each turn's last answer as a line of JSON; tool calls and figures as ever."""

    def __init__(self) -> None:
        super().__init__(err=True)

    def show(self, output: ChatOutput) -> None:
        """Writes nothing yet."""

    def end_turn(self, result: ChatResult) -> None:
        """Writes the answer."""
        self.end_line()
        show_text(json.dumps(dataclasses.asdict(result), ensure_ascii=False))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _RESULT_WIDTH else f"{line[: _RESULT_WIDTH - 1]}…"
