"""What a Chat returns: typed events while it streams, and whole answers joined from them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from folovllm.chat import ChatMessage, Role, ToolCall
from folovllm.errors import ServerError
from folovllm.logprobs import PositionLogprobs
from folovllm.outputs import (
    RequestInfo,
    RequestMetrics,
    Usage,
    join_info,
    read_stop_reason,
    set_stop_reason,
)
from folovllm.v1 import tokenizer_service_pb2 as wire


class ChatFinishReason(StrEnum):
    """Why an answer ended; compares equal to its plain word."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORT = "abort"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of a text; the base of the events that are only that."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta(TextDelta):
    """More of the reasoning."""


@dataclass(frozen=True, slots=True)
class ContentDelta(TextDelta):
    """More of the answer."""


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call began."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArgumentsDelta(TextDelta):
    """More of the arguments of the latest call, as JSON text."""


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """The latest call is complete."""

    tool_call: ToolCall


@dataclass(frozen=True, slots=True)
class ChatFinish:
    """An answer ended. All but the reason are as in CompletionOutput."""

    reason: ChatFinishReason
    stop_reason: int | str | None = None
    output_complete: bool = False
    usage: Usage | None = None
    metrics: RequestMetrics | None = None
    exact: bool | None = None
    num_moves: int = 0


ChatEvent = (
    ReasoningDelta
    | ContentDelta
    | ToolCallStart
    | ToolCallArgumentsDelta
    | ToolCallEnd
    | ChatFinish
)


@dataclass(slots=True)
class ChatOutput:
    """One event of one of a request's n answers.

    token_ids are those that arrived with the event; info comes with the first event of index 0.
    """

    event: ChatEvent
    request_id: str = ""
    index: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    info: RequestInfo | None = None

    def to_proto(self) -> wire.ChatOutput:
        """The message of the contract."""
        message = wire.ChatOutput(
            request_id=self.request_id,
            index=self.index,
            token_ids=self.token_ids,
            logprobs=[position.to_proto() for position in self.logprobs],
        )
        if self.info is not None:
            message.info.CopyFrom(self.info.to_proto())
        _set_event(message, self.event)
        return message

    @classmethod
    def from_proto(cls, message: wire.ChatOutput) -> "ChatOutput":
        """Reads a message of the contract."""
        return cls(
            _event(message),
            message.request_id,
            message.index,
            list(message.token_ids),
            [*map(PositionLogprobs.from_proto, message.logprobs)],
            RequestInfo.from_proto(message.info) if message.HasField("info") else None,
        )


@dataclass(slots=True)
class ChatAnswer:
    """One whole answer, joined from its events; tool_calls has the complete ones."""

    index: int = 0
    content: str = ""
    reasoning_content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    finish: ChatFinish | None = None

    @property
    def message(self) -> ChatMessage:
        """The answer as the conversation's next message."""
        return ChatMessage(
            Role.ASSISTANT, self.content, self.reasoning_content, tuple(self.tool_calls)
        )

    @property
    def finish_reason(self) -> ChatFinishReason | None:
        """Why it ended; None while it runs."""
        return None if self.finish is None else self.finish.reason

    def to_proto(self) -> wire.ChatAnswer:
        """The message of the contract."""
        return wire.ChatAnswer(
            index=self.index,
            message=self.message.to_proto(),
            finish=None if self.finish is None else _finish_to_proto(self.finish),
            token_ids=self.token_ids,
            logprobs=[position.to_proto() for position in self.logprobs],
        )

    def add(self, output: ChatOutput) -> None:
        """Adds the next event of this answer."""
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs
        match output.event:
            case ReasoningDelta(text):
                self.reasoning_content += text
            case ContentDelta(text):
                self.content += text
            case ToolCallEnd(tool_call):
                self.tool_calls.append(tool_call)
            case ChatFinish():
                self.finish = output.event


@dataclass(slots=True)
class ChatResult:
    """All answers of one Chat, joined from their events."""

    request_id: str = ""
    answers: list[ChatAnswer] = field(default_factory=list)
    info: RequestInfo | None = None

    @property
    def message(self) -> ChatMessage:
        """The first answer as the conversation's next message."""
        return self.answers[0].message

    @property
    def finished(self) -> bool:
        """Whether every answer has ended."""
        return bool(self.answers) and all(each.finish is not None for each in self.answers)

    def add(self, output: ChatOutput) -> None:
        """Adds a streamed event to its answer."""
        self.request_id = output.request_id
        if output.info is not None:
            self.info = join_info(self.info, output.info)
        while len(self.answers) <= output.index:
            self.answers.append(ChatAnswer(len(self.answers)))
        self.answers[output.index].add(output)

    @classmethod
    def join(cls, outputs: Iterable[ChatOutput]) -> "ChatResult":
        """Joins a whole stream."""
        result = cls()
        for output in outputs:
            result.add(output)
        return result


_TEXT_EVENTS: dict[str, type[ReasoningDelta | ContentDelta | ToolCallArgumentsDelta]] = {
    "reasoning_delta": ReasoningDelta,
    "content_delta": ContentDelta,
    "tool_call_arguments_delta": ToolCallArgumentsDelta,
}
_TEXT_FIELDS = {event: name for name, event in _TEXT_EVENTS.items()}


def _set_event(message: wire.ChatOutput, event: ChatEvent) -> None:
    match event:
        case ToolCallStart(id_, name):
            message.tool_call_start.CopyFrom(wire.ToolCallStart(id=id_, name=name))
        case ToolCallEnd(tool_call):
            message.tool_call_end.CopyFrom(tool_call.to_proto())
        case ChatFinish():
            message.finish.CopyFrom(_finish_to_proto(event))
        case _:
            setattr(message, _TEXT_FIELDS[type(event)], event.text)


def _event(message: wire.ChatOutput) -> ChatEvent:
    match message.WhichOneof("event"):
        case "tool_call_start":
            return ToolCallStart(message.tool_call_start.id, message.tool_call_start.name)
        case "tool_call_end":
            return ToolCallEnd(ToolCall.from_proto(message.tool_call_end))
        case "finish":
            return _finish_from_proto(message.finish)
        case str(name):
            return _TEXT_EVENTS[name](getattr(message, name))
        case None:
            raise ServerError("an event of a chat of unknown kind")


def _finish_to_proto(finish: ChatFinish) -> wire.ChatFinish:
    message = wire.ChatFinish(
        reason=wire.ChatFinishReason.Value(f"CHAT_FINISH_REASON_{finish.reason.name}"),
        usage=None if finish.usage is None else finish.usage.to_proto(),
        metrics=None if finish.metrics is None else finish.metrics.to_proto(),
    )
    may_be_eos = finish.reason in (ChatFinishReason.STOP, ChatFinishReason.TOOL_CALLS)
    set_stop_reason(message, finish.stop_reason, finish.output_complete, may_be_eos)
    if finish.exact is not None:
        message.exact = finish.exact
        message.num_moves = finish.num_moves
    return message


def _finish_from_proto(message: wire.ChatFinish) -> ChatFinish:
    name = wire.ChatFinishReason.Name(message.reason).removeprefix("CHAT_FINISH_REASON_")
    return ChatFinish(
        ChatFinishReason[name],
        *read_stop_reason(message),
        Usage.from_proto(message.usage) if message.HasField("usage") else None,
        RequestMetrics.from_proto(message.metrics) if message.HasField("metrics") else None,
        message.exact if message.HasField("exact") else None,
        message.num_moves,
    )
