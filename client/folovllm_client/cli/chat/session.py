"""ChatSession: a conversation that is shown while it goes on, and grows by whole turns.

It asks from asyncio, where Ctrl-C cancels the task that waits. In the threads of gRPC's other stack
a KeyboardInterrupt can leave a lock taken, after which no call of the channel is answered.
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
from folovllm_client.cli.answer_printer import AnswerPrinter
from folovllm_client.cli.stream_stats import StreamStats


class ChatSession:
    """Asks a model turn by turn, calls tools for it, and shows the answers.

    `messages` holds the conversation; a turn is a user's message with all that answers it.
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
        """Says `text` and shows the answer; both are kept.

        Where an error or cancellation ends the turn, nothing of it is kept, with one exception:
        content that came before a cancellation stays, with what led to it.
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
        """Takes the last turn back; what the user said in it. Raises InvalidRequestError."""
        for place in reversed(range(len(self.messages))):
            if self.messages[place].role is Role.USER:
                said = self.messages[place].content
                del self.messages[place:]
                return said
        raise InvalidRequestError("messages", "there is no turn to take back")

    def set_system(self, text: str) -> None:
        """Sets the instructions for the whole conversation; none where `text` is empty."""
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
        """Takes a conversation that was saved for the present one. Raises InvalidRequestError."""
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
        self._printer.end_line()
        if self._show_figures and not rounds.pending:
            self._printer.figures(stats)
