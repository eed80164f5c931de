"""ChatSession: a conversation that is shown as it proceeds, and grows by whole turns.

It uses asyncio, where Ctrl-C cancels the task that waits. In gRPC's synchronous stack a
KeyboardInterrupt can leave a lock held, after which no call of the channel completes.
"""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

from folovllm.chat import ChatMessage, Role
from folovllm.chat_outputs import ChatResult
from folovllm.errors import InvalidRequestError
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.api.chat_requests import (
    MAX_TOOL_ROUNDS,
    ChatOptions,
    message_as_dict,
    read_messages,
)
from folovllm_client.api.tool_rounds import ToolRounds
from folovllm_client.api.tools import Toolbox
from folovllm_client.cli.chat.answer_printer import AnswerPrinter
from folovllm_client.cli.stream_stats import StreamStats


class ChatSession:
    """Asks a model turn by turn, calls tools for it, and shows the answers.

    `messages` holds the conversation; a turn is a user's message and all answers to it.
    """

    def __init__(
        self,
        client: AsyncClient,
        toolbox: Toolbox,
        options: ChatOptions,
        printer: AnswerPrinter,
        show_figures: bool = True,
    ) -> None:
        self.messages: list[ChatMessage] = []
        self.toolbox = toolbox
        self.options = options
        self._client = client
        self._printer = printer
        self._show_figures = show_figures

    async def ask(self, text: str) -> None:
        """Asks `text` and shows the answer; both are kept.

        A turn that ends with an error or a cancellation is dropped, unless content had arrived
        before the cancellation.
        """
        question = ChatMessage(Role.USER, text)
        rounds = ToolRounds([*self.messages, question], self.toolbox, MAX_TOOL_ROUNDS, self.options)
        try:
            while rounds.unfinished:
                await self._stream(rounds)
                for call in rounds.pending:
                    self._printer.begin_call(call)
                    answer = await self.toolbox.call_async(call)
                    self._printer.end_call(answer)
                    rounds.messages.append(answer)
        finally:
            self._printer.end_line()
        self.messages = rounds.messages

    def undo(self) -> str:
        """Removes the last turn; returns what the user said. Raises InvalidRequestError."""
        for index in reversed(range(len(self.messages))):
            if self.messages[index].role is Role.USER:
                said = self.messages[index].content
                del self.messages[index:]
                return said
        raise InvalidRequestError("messages", "there is no turn to take back")

    def set_system(self, text: str) -> None:
        """Sets the instructions for the whole conversation; none if `text` is empty."""
        said = self.messages[self._num_system :]
        self.messages = [ChatMessage(Role.SYSTEM, text), *said] if text else said

    def reset(self) -> None:
        """Forgets all but the instructions."""
        del self.messages[self._num_system :]

    def save(self, path: Path) -> None:
        """Writes the conversation as JSON, in OpenAI's form. Raises InvalidRequestError."""
        text = json.dumps([*map(message_as_dict, self.messages)], ensure_ascii=False, indent=2)
        try:
            path.write_text(f"{text}\n", encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InvalidRequestError("messages", f"cannot save {path}: {error}") from error

    def load(self, path: Path) -> None:
        """Replaces the conversation with a saved one. Raises InvalidRequestError."""
        try:
            self.messages = [*read_messages(json.loads(path.read_text(encoding="utf-8")))]
        except InvalidRequestError as error:
            reason = f"{error.field}: {error}"
            raise InvalidRequestError("messages", f"cannot load {path}: {reason}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidRequestError("messages", f"cannot load {path}: {error}") from error

    @property
    def _num_system(self) -> int:
        return int(bool(self.messages) and self.messages[0].role is Role.SYSTEM)

    async def _stream(self, rounds: ToolRounds) -> None:
        """One answer of the model."""
        result, stats = ChatResult(), StreamStats()
        outputs = self._client.stream_chat(rounds.messages, tools=self.toolbox, **rounds.options)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    stats.observe(output)
                    result.add(output)
                    self._printer.show(output)
        except asyncio.CancelledError:
            if result.answers and result.message.content:
                said = ChatMessage(Role.ASSISTANT, result.message.content)
                self.messages = [*rounds.messages, said]
            raise
        rounds.add(result)
        if rounds.pending:
            self._printer.end_line()
            return
        self._printer.end_turn(result)
        if self._show_figures:
            self._printer.figures(stats)
