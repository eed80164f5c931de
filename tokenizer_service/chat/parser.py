"""ChatParser: the token ids of one answer, while they arrive, become typed events.

Sections are recognized by the ids of Qwen3's markers, never by text: `<think>` as the very first
id (or in the prompt) begins the reasoning and `</think>` ends it, then `<tool_call>` and
`</tool_call>` enclose a call. Anywhere else a marker is text. Stop strings apply to content only.

However the ids are split, after the same ids the same events have been returned, but that deltas of
one kind which follow each other may be joined; so has everything that the parser will do.
"""

from collections.abc import Callable
from enum import Enum, auto

from folovllm.chat_outputs import ChatEvent, ContentDelta, ReasoningDelta, TextDelta, ToolCallEnd
from folovllm.sampling_params import SamplingParams
from tokenizer_service.chat.answer_section import AnswerSection
from tokenizer_service.chat.markers import ChatMarkers, ThinkingState
from tokenizer_service.chat.tool_call_parser import ToolCallParser
from tokenizer_service.text.tokenizer import Tokenizer


class _Kind(Enum):
    REASONING = auto()
    CONTENT = auto()
    TOOL_CALL = auto()


class ChatParser:
    """One answer. `thinking` is its prompt's state; without `tool_calls` a call is content.

    `make_call_id` is called for each tool call that begins, whether it becomes one or not.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tokens: ChatMarkers,
        params: SamplingParams,
        thinking: ThinkingState,
        tool_calls: bool,
        make_call_id: Callable[[], str],
    ) -> None:
        self.num_tokens = 0
        """Ids parsed; those after a stop string are not."""
        self.num_reasoning_tokens = 0
        """Those between the markers of the reasoning."""
        self.num_tool_calls = 0
        """Calls that were completed."""
        self.ends: list[int] = []
        """For each event of the latest push, num_tokens after the last id that added to it."""
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._params = params
        self._thinking = thinking
        self._tool_calls = tool_calls and tokens.has_tool_calls
        self._make_call_id = make_call_id
        self._call: ToolCallParser | None = None
        self._kind = _Kind.CONTENT
        self._section = self._new_section(_Kind.CONTENT)
        if thinking is ThinkingState.OPEN:
            self._begin(_Kind.REASONING)

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer."""
        return self._section.stop

    def push(self, token_ids: list[int], *, apart: bool = False) -> list[ChatEvent]:
        """Parses the next ids, up to the answer's end.

        `apart` parses each by itself, so that `ends` does not count those whose text is still held.
        """
        events: list[ChatEvent] = []
        self.ends = []
        # Without stop strings, ids of a text are decoded together up to the next marker. Those of a
        # call are not, so that it is known which of them led to which event.
        run: list[int] = []
        for token_id in token_ids:
            following = self._following(token_id)
            if following is not None and run:
                self._parse(run, events)
                run = []
            self.num_tokens += 1
            if following is None:
                run.append(token_id)
                if apart or self._params.stop or self._kind is _Kind.TOOL_CALL:
                    self._parse(run, events)
                    run = []
            else:
                self._end_section(events, following)
                if self.stop is None:
                    self._begin(following)
            if self.stop is not None:
                return events
        if run:
            self._parse(run, events)
        return events

    def finish(self) -> list[ChatEvent]:
        """What is still held, at the end of the ids."""
        events: list[ChatEvent] = []
        self.ends = []
        if self.stop is None:
            self._end_section(events, None)
        return events

    def _following(self, token_id: int) -> _Kind | None:
        """The kind of section that an id begins, if it is a marker here."""
        tokens, kind = self._tokens, self._kind
        if kind is _Kind.REASONING:
            return _Kind.CONTENT if token_id == tokens.think_end else None
        if self._tool_calls and token_id == tokens.tool_call_start:
            return _Kind.TOOL_CALL
        if kind is _Kind.TOOL_CALL:
            return _Kind.CONTENT if token_id == tokens.tool_call_end else None
        begins_reasoning = (
            token_id == tokens.think_start
            and self.num_tokens == 0
            and self._thinking is ThinkingState.MAY_BEGIN
        )
        return _Kind.REASONING if begins_reasoning else None

    def _begin(self, kind: _Kind) -> None:
        self._kind = kind
        self._section = self._new_section(kind, after_marker=True)
        if kind is _Kind.TOOL_CALL:
            opening, closing = (
                "" if token_id is None else self._tokenizer.decode([token_id], False)
                for token_id in (self._tokens.tool_call_start, self._tokens.tool_call_end)
            )
            self._call = ToolCallParser(self._make_call_id(), opening, closing)

    def _new_section(self, kind: _Kind, after_marker: bool = False) -> AnswerSection:
        if kind is _Kind.TOOL_CALL:
            return AnswerSection(self._tokenizer, self._params)
        return AnswerSection(
            self._tokenizer,
            self._params,
            after_marker=after_marker,
            before_marker=kind is _Kind.REASONING or self._tool_calls,
            watched=kind is _Kind.CONTENT,
        )

    def _parse(self, token_ids: list[int], events: list[ChatEvent]) -> None:
        """Parses ids of the present section."""
        if self._kind is _Kind.REASONING:
            self.num_reasoning_tokens += len(token_ids)
        text = self._section.push(token_ids, self.num_tokens > self._params.min_tokens)
        if self.stop is not None:
            text += self._section.breaks
        self._add_text(text, events)

    def _end_section(self, events: list[ChatEvent], following: _Kind | None) -> None:
        """Ends the present section: at the marker of the following one, or at the output's end."""
        text = self._section.flush(self.num_tokens > self._params.min_tokens)
        if self._kind is _Kind.CONTENT and (self.stop is not None or following is None):
            text += self._section.breaks
        self._add_text(text, events)
        if self._kind is _Kind.TOOL_CALL and self._call is not None:
            closed = following is _Kind.CONTENT
            self._add(events, self._call.close() if closed else self._call.cut())

    def _add_text(self, text: str, events: list[ChatEvent]) -> None:
        if not text:
            return
        if self._kind is _Kind.REASONING:
            self._add(events, [ReasoningDelta(text)])
        elif self._kind is _Kind.CONTENT:
            self._add(events, [ContentDelta(text)])
        elif self._call is not None:
            self._add(events, self._call.push(text))

    def _add(self, events: list[ChatEvent], new: list[ChatEvent]) -> None:
        """Adds events, joining deltas of a kind: ids that arrive together make one delta."""
        for event in new:
            self.num_tool_calls += isinstance(event, ToolCallEnd)
            last = events[-1] if events else None
            if isinstance(last, TextDelta) and type(last) is type(event):
                events[-1] = type(last)(last.text + event.text)
                self.ends[-1] = self.num_tokens
            else:
                events.append(event)
                self.ends.append(self.num_tokens)
