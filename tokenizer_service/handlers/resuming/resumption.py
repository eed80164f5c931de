"""Resumption: a request that goes on from what its caller has received.

The processor of its texts or events takes the ids that were received, as if the engine had just
sent them. What they have led to beyond the messages received is sent first. Then an engine goes on
with the indexes that have not ended.

Of a structured output only the engine knows when it is complete. Where its last id may have come
before its last message, which a Chat sends apart, the engine draws that id once more and so finds
its end; it is the same one, and is not sent again.
"""

import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from folovllm.errors import InvalidRequestError
from folovllm.outputs import CompletionOutput, FinishReason, Usage
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2
from tokenizer_service.handlers.info_relay import has_more
from tokenizer_service.handlers.resuming.ending import Ending
from tokenizer_service.handlers.resuming.received import Received
from tokenizer_service.text.replayed import Replayed


class _Named(Protocol):
    request_id: str


Reply = TypeVar("Reply", bound=_Named)
_CONTINUED = re.compile(r"continued\.outputs\[(\d+)\]\.?(.*)")


class Processor(Protocol[Reply]):
    """An OutputProcessor or a ChatProcessor."""

    def replay(
        self,
        index: int,
        visible_ids: Sequence[int],
        num_hidden: int = 0,
        logprobs: Iterable[float] = (),
    ) -> Replayed[Reply]:
        """Takes ids that were returned before."""

    def end(self, final: CompletionOutput) -> list[Reply]:
        """The last replies of an index, by a final delta without ids."""


@dataclass(slots=True)
class _Redrawn:
    """The last id of a structured output, which the engine draws once more."""

    received: Received
    num_unsent: int
    """Replies to the engine's final delta that were received, if that has no other id."""
    goes_on: bool
    """Whether more ids may follow, by the messages received."""


class Resumption(Generic[Reply]):
    """One request, before and while an engine goes on with it. Without `replay` it begins anew."""

    def __init__(
        self, request_id: str, params: SamplingParams, num_prompt_tokens: int, *, redraws: bool
    ) -> None:
        """With `redraws` a structured output may be complete with the ids received."""
        self.first: list[Reply] = []
        """What is sent before anything of an engine."""
        self._request_id = request_id
        self._received: Sequence[Received] = ()
        self.params = params
        self._num_prompt_tokens = num_prompt_tokens
        self._redraws = redraws and params.structured_output is not None
        self._continued: list[tuple[Received, Sequence[int]]] = []
        self._redrawn: dict[int, _Redrawn] = {}
        self._num_unsent: dict[int, int] = {}

    @property
    def is_complete(self) -> bool:
        """Whether `first` is everything, so that no engine is needed."""
        return bool(self._received) and not self._continued

    @property
    def has_info(self) -> bool:
        """Whether the caller has RequestInfo, which comes before all else of any index."""
        has_ended = len(self._received) < self.params.n
        return bool(self._received) and (
            has_ended or any(each.token_ids for each in self._received)
        )

    def replay(self, received: Sequence[Received], processor: Processor[Reply]) -> Iterator[int]:
        """Has the processor take the ids. Raises InvalidRequestError for what it cannot have sent.

        Each step takes time in proportion to the ids of an index, whose number it yields before.
        """
        self._received = received
        for each in received:
            yield len(each.token_ids)
            self._replay(each, processor)
        for reply in self.first:
            reply.request_id = self._request_id

    def add_to(self, request: types_pb2.Request) -> None:
        """Adds to an engine's request what it goes on with."""
        for each, token_ids in self._continued:
            request.continued.outputs.add(
                index=each.index, token_ids=token_ids, logprobs=each.logprobs[: len(token_ids)]
            )

    def outputs(
        self, stream: AsyncIterator[types_pb2.CompletionOutput]
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        """The engine's outputs without the ids that it has drawn once more."""
        return self._without_redrawn(stream) if self._redrawn else stream

    def unsent(self, index: int, replies: list[Reply]) -> list[Reply]:
        """Those of an index's replies to the engine's latest output that were not received."""
        return replies[self._num_unsent.pop(index, 0) :] if self._num_unsent else replies

    @contextmanager
    def errors_named(self) -> Iterator[None]:
        """Names the fields of InvalidRequestErrors as the caller of `resume` wrote them."""
        try:
            yield
        except InvalidRequestError as error:
            raise InvalidRequestError(self._field(error.field), str(error)) from None

    def _replay(self, each: Received, processor: Processor[Reply]) -> None:
        num_hidden = self._num_hidden(each.ending)
        num_visible = len(each.token_ids) - num_hidden
        visible_ids = each.token_ids[:num_visible]
        replayed = processor.replay(each.index, visible_ids, num_hidden, each.logprobs)
        if replayed.num_tokens < len(each.token_ids):
            field = f"token_ids[{replayed.num_tokens}]"
            raise each.fault(field, "follows a stop string, which ends the output")
        ending = each.ending
        if replayed.stop is not None:
            ending = Ending(FinishReason.STOP)
        if ending is not None:
            end = processor.end(self._final(each, ending))
            self._send(each, replayed.made, end, came_with_end=replayed.stop is None)
        elif self._redraws and each.token_ids:
            self._redraw(each, replayed.made)
        else:
            self._send(each, replayed.made, [], came_with_end=False)
            self._continued.append((each, each.token_ids))

    def _field(self, field: str) -> str:
        if self._received and field.startswith("sampling_params"):
            return f"resume.{field}"
        found = _CONTINUED.fullmatch(field)
        if found is None or int(found[1]) >= len(self._continued):
            return field
        place = self._continued[int(found[1])][0].place
        return f"{place}.{found[2]}" if found[2] else place

    def _num_hidden(self, ending: Ending | None) -> int:
        """How many of the last ids have no text: a stop token, unless asked for."""
        hides = ending is not None and ending.reason is FinishReason.STOP
        return int(hides and not self.params.include_stop_str_in_output)

    def _final(self, each: Received, ending: Ending) -> CompletionOutput:
        """The engine's final delta, if it had sent the ids before."""
        usage = Usage(self._num_prompt_tokens, len(each.token_ids))
        return CompletionOutput(
            index=each.index,
            finish_reason=ending.reason,
            stop_reason=ending.stop_token_id,
            usage=usage,
            exact=True,
        )

    def _send(
        self, each: Received, made: Sequence[Reply], end: list[Reply], *, came_with_end: bool
    ) -> None:
        """Sends what was not received of what the last id has led to, and of the end.

        `came_with_end` is whether that id, if it has led to nothing else, came with what the end
        led to.
        """
        num_received = each.num_later_messages + bool(made or came_with_end)
        replies = [*made, *end]
        # Of a message with the end itself nothing could be resumed.
        most = len(replies) - bool(end)
        if not each.num_later_messages:
            num_received = min(num_received, most)
        if num_received > most:
            raise self._too_many(each)
        self.first += replies[num_received:]

    def _redraw(self, each: Received, made: Sequence[Reply]) -> None:
        num_received = 1 + each.num_later_messages
        self.first += made[num_received:]
        goes_on = num_received <= len(made) or not each.num_later_messages
        self._redrawn[each.index] = _Redrawn(each, max(0, num_received - len(made)), goes_on)
        self._continued.append((each, each.token_ids[:-1]))

    async def _without_redrawn(
        self, stream: AsyncIterator[types_pb2.CompletionOutput]
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        async for output in stream:
            if output.index in self._redrawn and output.token_ids:
                self._take_redrawn(output, self._redrawn.pop(output.index))
                if not (has_more(output) or output.HasField("info")):
                    continue
            yield output

    def _take_redrawn(self, output: types_pb2.CompletionOutput, redrawn: _Redrawn) -> None:
        each = redrawn.received
        if output.token_ids[0] != each.token_ids[-1]:
            raise each.fault(
                f"token_ids[{len(each.token_ids) - 1}]",
                f"is {each.token_ids[-1]}, where the engine generates {output.token_ids[0]}",
            )
        del output.token_ids[0]
        del output.logprobs[:1]
        if output.finish_reason and not output.token_ids:
            self._num_unsent[each.index] = redrawn.num_unsent
        elif not redrawn.goes_on:
            raise self._too_many(each)

    @staticmethod
    def _too_many(each: Received) -> InvalidRequestError:
        return each.fault(
            "num_later_messages",
            f"({each.num_later_messages}) is over what follows the message with the last id",
        )
