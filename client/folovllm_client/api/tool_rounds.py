"""ToolRounds: the answers of a model and of its tools in turn, until the model is done.

    while rounds.unfinished:
        rounds.add(the model's answer to rounds.messages with rounds.options)
        for call in rounds.pending:
            rounds.messages.append(the tool's answer)

Nothing is called here, so the loop works with every kind of client.
"""

from collections.abc import Iterable

from folovllm.chat import ChatMessage, ToolCall
from folovllm.chat_outputs import ChatFinishReason, ChatResult
from folovllm.errors import InvalidRequestError
from folovllm_client.api.chat_messages import Messages, ToolFunction, read_messages
from folovllm_client.api.chat_requests import ChatOptions
from folovllm_client.api.tools import Toolbox


class ToolRounds:
    """A conversation that grows by the model's answers, at most `max_rounds`, and the tools'.

    A tool_choice that requires a call does so only in the first round, or the model could never
    end. Raises InvalidRequestError.
    """

    def __init__(
        self,
        messages: Messages,
        tools: Toolbox | Iterable[ToolFunction],
        max_rounds: int,
        options: ChatOptions,
    ) -> None:
        if max_rounds < 1:
            raise InvalidRequestError("max_rounds", f"max_rounds must be over 0, got {max_rounds}")
        n = max(options.get("n") or 1, getattr(options.get("sampling_params"), "n", 1))
        if n > 1:
            raise InvalidRequestError(
                "sampling_params.n", f"tools are called for one answer, not for {n}"
            )
        self.toolbox = tools if isinstance(tools, Toolbox) else Toolbox(tools)
        self.messages: list[ChatMessage] = [*read_messages(messages)]
        self.result = ChatResult()
        self.pending: tuple[ToolCall, ...] = ()
        self.unfinished = True
        self._rounds_left = max_rounds
        self._options = options

    @property
    def options(self) -> ChatOptions:
        """How to ask for the next answer."""
        if self.result.answers and self._options.get("tool_choice") not in (None, "none"):
            return {**self._options, "tool_choice": "auto"}
        return self._options

    def add(self, result: ChatResult) -> None:
        """Adds the model's answer; its calls are `pending` unless this was the last round."""
        self.result = result
        self.messages.append(result.message)
        self._rounds_left -= 1
        calls = result.answers[0].finish_reason is ChatFinishReason.TOOL_CALLS
        self.unfinished = calls and self._rounds_left > 0
        self.pending = result.message.tool_calls if self.unfinished else ()
