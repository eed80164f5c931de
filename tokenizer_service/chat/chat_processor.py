"""ChatProcessor: the engine's deltas of token ids become the typed events of n answers.

Each token id is returned once, with the event that it led to or, if it led to none, with one beside
it, as `_Answer._outputs` says. Each index has exactly one ChatFinish, and nothing after it. At a
stop string the caller is asked to abort that answer at the engine. What the engine still sends for
it is dropped, except the usage and metrics of its final delta, which the ChatFinish takes over.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from folovllm.chat_outputs import ChatEvent, ChatFinish, ChatFinishReason, ChatOutput
from folovllm.logprobs import PositionLogprobs
from folovllm.outputs import CompletionOutput
from tokenizer_service.chat.parser import ChatParser
from tokenizer_service.text.output_processor import visible_ids
from tokenizer_service.text.replayed import Replayed


class ChatProcessor:
    """All answers of one Chat. `make_parser` makes the parser of the answer of an index."""

    def __init__(
        self, make_parser: Callable[[int], ChatParser], *, include_stop_token: bool
    ) -> None:
        """`include_stop_token` leaves the text of a stop token in the content."""
        self._make_parser = make_parser
        self._include_stop_token = include_stop_token
        self._answers: dict[int, _Answer] = {}

    def process(self, delta: CompletionOutput) -> tuple[list[ChatOutput], bool]:
        """Takes the engine's next delta, of any index.

        Returns what to send, and whether a stop string has just ended the answer while the engine
        still generates it.
        """
        return self._answer(delta.index).process(delta)

    def replay(
        self,
        index: int,
        visible_ids: Sequence[int],
        num_hidden: int = 0,
        logprobs: Iterable[float] = (),
    ) -> Replayed[ChatOutput]:
        """Takes ids that were returned before, all so far; afterwards the rest follows from there.

        `num_hidden` of them, after the others, have no text: a stop token. Their outputs have no
        ids, since these were received. `logprobs` are not needed: events have no sums of them.
        """
        return self._answer(index).replay(list(visible_ids), num_hidden, index)

    def end(self, final: CompletionOutput) -> list[ChatOutput]:
        """The last outputs of an index that no engine continues, by a final delta without ids."""
        return self.process(final)[0]

    def _answer(self, index: int) -> "_Answer":
        if index not in self._answers:
            self._answers[index] = _Answer(self._make_parser(index), self._include_stop_token)
        return self._answers[index]


class _Answer:
    """One of the n."""

    def __init__(self, parser: ChatParser, include_stop_token: bool) -> None:
        self._finished = False
        self._parser = parser
        self._include_stop_token = include_stop_token
        self._num_tokens = 0
        # Of ids that have not gone out with an event yet.
        self._token_ids: list[int] = []
        self._logprobs: list[PositionLogprobs] = []

    def process(self, delta: CompletionOutput) -> tuple[list[ChatOutput], bool]:
        if self._finished:
            return [], False
        events: list[tuple[ChatEvent, int]] = []
        was_stopped = self._parser.stop is not None
        if not was_stopped:
            events = self._parse(delta)
        if delta.finished():
            self._finished = True
            events.append((self._finish(delta), self._num_tokens))
        stops = self._parser.stop is not None and not was_stopped and not self._finished
        return self._outputs(delta, events), stops

    def replay(self, token_ids: list[int], num_hidden: int, index: int) -> Replayed[ChatOutput]:
        parser = self._parser
        num_earlier = len(token_ids) - (not num_hidden)
        parser.push(token_ids[:num_earlier])
        last = [] if parser.stop is not None else parser.push(token_ids[num_earlier:])
        self._num_tokens = parser.num_tokens + (num_hidden if parser.stop is None else 0)
        made = [ChatOutput(event, index=index) for event in last]
        return Replayed(made, parser.stop, self._num_tokens)

    def _parse(self, delta: CompletionOutput) -> list[tuple[ChatEvent, int]]:
        """The events of a delta, each with the number of ids after the last that added to it."""
        parser = self._parser
        num_before = parser.num_tokens
        visible = visible_ids(delta, self._include_stop_token)
        # What is held at the very end becomes an event of its own, which has the ids of its text.
        pushed = parser.push(visible, apart=delta.finished())
        events = [*zip(pushed, parser.ends, strict=True)]
        num_taken = len(delta.token_ids)
        if parser.stop is not None:
            num_taken = parser.num_tokens - num_before
        self._num_tokens += num_taken
        self._token_ids += delta.token_ids[:num_taken]
        self._logprobs += delta.logprobs[:num_taken]
        if parser.stop is None and delta.finished():
            events += [(event, self._num_tokens) for event in parser.finish()]
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

    def _outputs(
        self, delta: CompletionOutput, events: list[tuple[ChatEvent, int]]
    ) -> list[ChatOutput]:
        """The events with their ids: each has those up to the last one that added to it.

        Ids that led to nothing come with the event after them, if the delta has one, else with the
        one before them, and where the delta has none, with the next delta's. So all that the ids
        before the last one received have led to was received too, and what that one has led to
        begins with the event that has it.
        """
        outputs = [ChatOutput(event, delta.request_id, delta.index) for event, _ in events]
        if len(outputs) == 1:  # as most often
            outputs[0].token_ids, outputs[0].logprobs = self._token_ids, self._logprobs
            self._token_ids, self._logprobs = [], []
            return outputs
        num_given = self._num_tokens - len(self._token_ids)
        for output, (_, end) in zip(outputs, events, strict=True):
            count = (self._num_tokens if output is outputs[-1] else end) - num_given
            output.token_ids = self._token_ids[:count]
            output.logprobs = self._logprobs[:count]
            del self._token_ids[:count], self._logprobs[:count]
            num_given += count
        return outputs
