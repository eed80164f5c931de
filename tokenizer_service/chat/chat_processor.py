"""ChatProcessor: the engine's deltas of token ids become the typed events of n answers.

Each token id is returned once, with the first event of its delta or, if that has none, with the
next event. Each index has exactly one ChatFinish, and nothing after it. At a stop string the caller
is asked to abort that answer at the engine. What the engine still sends for it is dropped, except
the usage and metrics of its final delta, which the ChatFinish takes over.
"""

from collections.abc import Callable
from dataclasses import replace

from folovllm.chat_outputs import ChatEvent, ChatFinish, ChatFinishReason, ChatOutput
from folovllm.logprobs import PositionLogprobs
from folovllm.outputs import CompletionOutput
from tokenizer_service.chat.parser import ChatParser
from tokenizer_service.text.output_processor import visible_ids


class ChatProcessor:
    """All answers of one Chat. `make_parser` makes the parser of one answer."""

    def __init__(self, make_parser: Callable[[], ChatParser], *, include_stop_token: bool) -> None:
        """`include_stop_token` leaves the text of a stop token in the content."""
        self._make_parser = make_parser
        self._include_stop_token = include_stop_token
        self._answers: dict[int, _Answer] = {}

    def process(self, delta: CompletionOutput) -> tuple[list[ChatOutput], bool]:
        """Takes the engine's next delta, of any index.

        Returns what to send, and whether a stop string has just ended the answer while the engine
        still generates it.
        """
        if delta.index not in self._answers:
            self._answers[delta.index] = _Answer(self._make_parser(), self._include_stop_token)
        return self._answers[delta.index].process(delta)


class _Answer:
    """One of the n."""

    def __init__(self, parser: ChatParser, include_stop_token: bool) -> None:
        self._finished = False
        self._parser = parser
        self._include_stop_token = include_stop_token
        self._num_tokens = 0
        # Of deltas that have not led to an event yet.
        self._token_ids: list[int] = []
        self._logprobs: list[PositionLogprobs] = []

    def process(self, delta: CompletionOutput) -> tuple[list[ChatOutput], bool]:
        if self._finished:
            return [], False
        events: list[ChatEvent] = []
        was_stopped = self._parser.stop is not None
        if not was_stopped:
            events = self._parse(delta)
        if delta.finished():
            self._finished = True
            events.append(self._finish(delta))
        stops = self._parser.stop is not None and not was_stopped and not self._finished
        return self._outputs(delta, events), stops

    def _parse(self, delta: CompletionOutput) -> list[ChatEvent]:
        num_before = self._parser.num_tokens
        events = self._parser.push(visible_ids(delta, self._include_stop_token))
        num_taken = len(delta.token_ids)
        if self._parser.stop is not None:
            num_taken = self._parser.num_tokens - num_before
        elif delta.finished():
            events += self._parser.finish()
        self._num_tokens += num_taken
        self._token_ids += delta.token_ids[:num_taken]
        self._logprobs += delta.logprobs[:num_taken]
        return events

    def _finish(self, delta: CompletionOutput) -> ChatFinish:
        assert delta.finish_reason is not None
        usage = delta.usage and replace(
            delta.usage, reasoning_tokens=self._parser.num_reasoning_tokens
        )
        if self._parser.stop is not None:
            return ChatFinish(
                ChatFinishReason.STOP,
                self._parser.stop,
                usage=usage and replace(usage, completion_tokens=self._num_tokens),
                metrics=delta.metrics,
                exact=delta.exact,
                num_moves=delta.num_moves,
            )
        reason = ChatFinishReason(delta.finish_reason.value)
        if reason is ChatFinishReason.STOP and self._parser.num_tool_calls:
            reason = ChatFinishReason.TOOL_CALLS
        return ChatFinish(
            reason,
            delta.stop_reason,
            delta.output_complete,
            usage,
            delta.metrics,
            exact=delta.exact,
            num_moves=delta.num_moves,
        )

    def _outputs(self, delta: CompletionOutput, events: list[ChatEvent]) -> list[ChatOutput]:
        outputs = [ChatOutput(event, delta.request_id, delta.index) for event in events]
        if outputs:
            first = outputs[0]
            first.token_ids, first.logprobs = self._token_ids, self._logprobs
            self._token_ids, self._logprobs = [], []
        return outputs
